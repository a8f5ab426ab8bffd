"""The experts' hand-written passes against plain autograd: C, PyTorch and grouped."""

import pytest
import torch

from isthmus.models import compiled, grouped_experts, row_kernels
from isthmus.models.dispatch import dispatch
from isthmus.models.experts import run_experts
from isthmus.models.row_kernels import CompiledKernels, TorchKernels, kernels_for

PATHS = ["compiled", "torch", "grouped"]
D, F = 40, 24
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 1.5e-2}


@pytest.fixture
def path(request, monkeypatch):
    """Which of the passes runs."""
    if request.param == "compiled" and not isinstance(kernels_for(torch.zeros(1)), CompiledKernels):
        pytest.skip("there is no compiler")
    if request.param == "torch":
        monkeypatch.setenv(row_kernels.VARIABLE, "0")
    monkeypatch.setattr(grouped_experts, "available", lambda x, params: request.param == "grouped")
    return request.param


def problem(expert_NK, num_experts, dtype=torch.float32, kept_NK=None, widths=(D, F), seed=0):
    """(inputs of `run_experts`, gradient of its result)."""
    hidden, ffn = widths
    draws = torch.Generator().manual_seed(seed)
    x_ND = torch.randn(len(expert_NK), hidden, generator=draws).to(dtype).requires_grad_()
    weight_NK = torch.rand(expert_NK.shape, generator=draws).requires_grad_()
    shapes = [(hidden, 2 * ffn), (ffn, hidden)] * num_experts
    params = [(torch.randn(shape, generator=draws) / shape[0] ** 0.5).requires_grad_() for shape in shapes]
    plan = dispatch(expert_NK, num_experts, 32 if dtype == torch.bfloat16 else 1, kept_NK)
    return (x_ND, weight_NK, plan, params), torch.randn(x_ND.shape, generator=draws).to(dtype)


def draw_choices(tokens, num_experts, k, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return torch.rand(tokens, num_experts, generator=draws).argsort(-1)[:, :k].contiguous()


def gradients(inputs, grad):
    """[y, and gradients of x, weight and params; None as zeros], fp32."""
    x_ND, weight_NK, plan, params = inputs
    y_ND = run_experts(x_ND, weight_NK, plan, params)
    got = torch.autograd.grad(y_ND, [x_ND, weight_NK, *params], grad, allow_unused=True)
    for leaf, found in zip([x_ND, weight_NK, *params], got, strict=True):
        assert found is None or found.dtype == leaf.dtype
    leaves = [x_ND, weight_NK, *params]
    zeros = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(got, leaves, strict=True)]
    return [tensor.detach().float() for tensor in (y_ND, *zeros)]


def reference(inputs, grad, expert_NK):
    """The same in fp64, every expert on every token."""
    x_ND, weight_NK, plan, params = inputs
    leaves = [tensor.detach().double().requires_grad_() for tensor in (x_ND, weight_NK, *params)]
    x, weight, *matrices = leaves
    y = torch.zeros_like(x)
    kept = torch.ones_like(expert_NK, dtype=torch.bool) if plan.kept_NK is None else plan.kept_NK
    for expert, (gate_up, down) in enumerate(zip(matrices[::2], matrices[1::2], strict=True)):
        gate, up = (x @ gate_up).chunk(2, -1)
        share = torch.where((expert_NK == expert) & kept, weight, 0.0).sum(-1, keepdim=True)
        y = y + share * ((gate * torch.sigmoid(gate) * up) @ down)
    got = torch.autograd.grad(y, leaves, grad.double(), allow_unused=True)
    zeros = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(got, leaves, strict=True)]
    return [tensor.detach().float() for tensor in (y, *zeros)]


def compare(inputs, grad, expert_NK):
    tolerance = TOLERANCE[inputs[0].dtype]
    for got, want in zip(gradients(inputs, grad), reference(inputs, grad, expert_NK), strict=True):
        assert float((got - want).norm()) <= tolerance * max(float(want.norm()), 1e-3)


@pytest.mark.parametrize("path", PATHS, indirect=True)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("tokens", "num_experts", "k"), [(300, 8, 2), (5, 8, 2), (64, 1, 1), (50, 4, 4), (1, 3, 2)]
)
def test_result_and_gradients(path, dtype, tokens, num_experts, k):
    expert_NK = draw_choices(tokens, num_experts, k)
    compare(*problem(expert_NK, num_experts, dtype), expert_NK)


@pytest.mark.parametrize("path", PATHS, indirect=True)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_experts_without_tokens(path, dtype):
    expert_NK = torch.tensor([[1, 4]] * 7)
    inputs, grad = problem(expert_NK, 6, dtype)
    compare(inputs, grad, expert_NK)
    run_experts(*inputs).backward(grad)
    if path != "grouped":
        assert [i for i, p in enumerate(inputs[3]) if p.grad is not None] == [2, 3, 8, 9]


@pytest.mark.parametrize("path", PATHS, indirect=True)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_dropped_choices_contribute_nothing(path, dtype, share):
    expert_NK = draw_choices(200, 4, 2)
    kept_NK = torch.rand(200, 2, generator=torch.Generator().manual_seed(1)) >= share
    inputs, grad = problem(expert_NK, 4, dtype, kept_NK)
    assert inputs[2].counts.tolist() == [int(((expert_NK == e) & kept_NK).sum()) for e in range(4)]
    compare(inputs, grad, expert_NK)
    y, grad_x, grad_weight, *_ = gradients(inputs, grad)
    assert not y[~kept_NK.any(-1)].any()
    assert not grad_x[~kept_NK.any(-1)].any()
    assert not grad_weight[~kept_NK].any()


@pytest.mark.parametrize("path", PATHS, indirect=True)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_uninitialised_memory_is_never_used(path, dtype):
    """Fill it with NaN."""
    expert_NK = draw_choices(100, 5, 2)
    kept_NK = torch.rand(100, 2, generator=torch.Generator().manual_seed(1)) >= 0.2
    inputs, grad = problem(expert_NK, 5, dtype, kept_NK)
    plain = gradients(inputs, grad)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.utils.deterministic.fill_uninitialized_memory
        filled = gradients(inputs, grad)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, plain, filled))


@pytest.mark.parametrize("path", PATHS, indirect=True)
def test_a_token_that_is_not_finite_stays_with_its_experts(path):
    """Padding once repeated token 0, and so carried it to every expert."""
    expert_NK = torch.tensor([[0], [1], [2]])
    inputs, grad = problem(expert_NK, 3, torch.bfloat16)
    with torch.no_grad():
        inputs[0][0] = float("nan")
    y, grad_x, _, *grad_params = gradients(inputs, grad)
    assert y[1:].isfinite().all()
    assert grad_x[1:].isfinite().all()
    assert all(g.isfinite().all() for g in grad_params[2:])


@pytest.mark.parametrize("path", PATHS, indirect=True)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_number_of_threads_changes_no_bit(path, dtype):
    expert_NK = draw_choices(700, 4, 2)
    inputs, grad = problem(expert_NK, 4, dtype, widths=(128, 256))
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(gradients(inputs, grad))
    assert all(map(torch.equal, *results))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_grouped_on_cuda(share):
    expert_NK = draw_choices(300, 8, 2) // 2 * 2  # half of the experts get nothing
    expert_NK[:, 1] = (expert_NK[:, 0] + 2) % 8
    kept_NK = torch.rand(300, 2, generator=torch.Generator().manual_seed(1)) >= share
    (x, weight, plan, params), grad = problem(expert_NK, 8, torch.bfloat16, kept_NK, widths=(64, 128))
    want = reference((x, weight, plan, params), grad, expert_NK)
    leaves = [tensor.detach().cuda().requires_grad_() for tensor in (x, weight, *params)]
    plan = dispatch(expert_NK.cuda(), 8, 32, kept_NK.cuda())
    got = gradients((leaves[0], leaves[1], plan, leaves[2:]), grad.cuda())
    for found, wanted in zip(got, want, strict=True):
        assert float((found.cpu() - wanted).norm()) <= TOLERANCE[torch.bfloat16] * max(
            float(wanted.norm()), 1e-3
        )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("rows", "width"), [(32, 64), (24, 40), (7, 33), (1, 5), (65, 300)])
def test_c_kernels_equal_their_twins(dtype, rows, width):
    ours, twin = kernels_for(torch.zeros(1, dtype=dtype)), TorchKernels()
    if not isinstance(ours, CompiledKernels):
        pytest.skip("there is no compiler")
    draws = torch.Generator().manual_seed(rows)

    def normal(*shape):
        return (3 * torch.randn(shape, generator=draws)).to(dtype)

    def both(call, *shapes):
        outs = [[torch.full(shape, 7.0, dtype=dtype) for shape in shapes] for _ in range(2)]
        call(ours, *outs[0])
        call(twin, *outs[1])
        return zip(*outs, strict=True)

    x, gate_up, grad = normal(9, width), normal(rows, 2 * width), normal(rows, width)
    token, weight = torch.randint(-1, 9, (rows,), generator=draws), torch.rand(rows, generator=draws)
    row = torch.randint(0, rows, (11, 3), generator=draws)
    for got, want in both(lambda kernels, out: kernels.gather(x, token, out), (rows, width)):
        assert torch.equal(got, want)
    for got, want in both(lambda kernels, out: kernels.swiglu(gate_up, weight, out), (rows, width)):
        torch.testing.assert_close(got, want, rtol=2e-2 if dtype == torch.bfloat16 else 1e-6, atol=1e-6)
    for got, want in both(lambda kernels, out: kernels.combine(grad, row, out), (11, width)):
        torch.testing.assert_close(got, want)
    if dtype == torch.bfloat16:
        for got, want in both(lambda kernels, out: kernels.transpose(grad, out), (width, rows)):
            assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_c_swiglu_at_its_ends(dtype):
    kernels = kernels_for(torch.zeros(1, dtype=dtype))
    gate = torch.tensor([0.0, -0.0, 1e4, -1e4, 88.0, -88.0, 1e-30, float("inf"), float("nan")]).to(dtype)
    up = torch.ones_like(gate)
    out = torch.empty(1, len(gate), dtype=dtype)
    kernels.swiglu(torch.cat([gate, up])[None], torch.ones(1), out)
    want = torch.nn.functional.silu(gate)
    torch.testing.assert_close(out[0], want, equal_nan=True, rtol=1e-2, atol=1e-30)


def test_without_a_compiler_pytorch_does_the_work(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("CC", str(tmp_path / "no-such-compiler"))
    assert compiled.load.__wrapped__(row_kernels.SOURCE) is None
    assert "no-such-compiler" in caplog.text


def test_a_failed_build_leaves_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "broken.c"
    source.write_text("this is no C")
    assert compiled.load.__wrapped__(source) is None
    assert not list(compiled.cache_folder().iterdir())
