"""outer.oracle.*: what we compute against what others compute from the same samples, step for step."""

import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from isthmus.agent.children import wait_all
from isthmus.data.dataset import Dataset, prepare
from isthmus.errors import IsthmusError
from isthmus.spec.load import to_yaml
from isthmus.spec.model import ModelSpec
from isthmus.spec.run import DataSpec, OuterSpec, RunSpec, SourceSpec, TrainSpec
from isthmus_bench.document import Result
from isthmus_bench.outer import torchft_peer
from isthmus_bench.outer.federation import Plan, make_layout, train_federated, train_together

SYNC_STEPS = 20
WINDOWS, INNER_STEPS = 6, 10
_TEXT_BYTES = 4_000_000
_WORKERS_S = 300.0


def run(quick: bool) -> list[Result]:
    """Seconds in both modes."""
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as name:
        folder = Path(name)
        spec = _spec(folder)
        dataset = prepare(spec.data, spec.model.vocab_size)
        return [sync(spec, dataset), *torchft(folder, spec, dataset)]


def sync(spec: RunSpec, dataset: Dataset) -> Result:
    """With H = 1, plain SGD inside and lr 1 outside, two sites are data parallelism."""
    replace = msgspec.structs.replace
    spec = replace(
        spec,
        train=replace(spec.train, optimizer="sgd", lr=0.1, schedule="constant", weight_decay=0.0),
        outer=replace(spec.outer, inner_steps=1, optimizer="sgd", lr=1.0),
    )
    plan = Plan(2, spec.train.batch_size, SYNC_STEPS)
    ours, theirs = train_federated(spec, dataset, plan), train_together(spec, dataset, plan)
    layout = make_layout(ours)
    flats = [np.empty(layout.size, np.float32) for _ in range(2)]
    for learner, flat in zip((ours, theirs), flats, strict=True):
        layout.pack(learner.parameters(), flat)
    note = (
        f"2 sites, fp32, H = 1, {SYNC_STEPS} steps of SGD without clipping, outer SGD lr 1; against one "
        f"learner on both batches; {layout.size} parameters; all in one process"
    )
    return Result("outer.oracle.sync", distance(*flats), "ratio", note=note)


def torchft(folder: Path, spec: RunSpec, dataset: Dataset) -> list[Result]:
    """The worst version of all; none if torchft is not here."""
    peer = torchft_peer.find()
    if peer is None:
        return []
    plan = Plan(2, spec.train.batch_size, WINDOWS * INNER_STEPS)
    ours: list[np.ndarray] = []
    train_federated(spec, dataset, plan, lambda _, published: ours.append(published))
    theirs = torchft_versions(peer, folder, spec, plan)
    worst = max(distance(a, b) for a, b in zip(ours, theirs, strict=True))
    note = (
        f"2 sites, fp32, H = {INNER_STEPS}, AdamW inside, Nesterov lr {spec.outer.lr}, momentum "
        f"{spec.outer.momentum}; worst of {WINDOWS} versions against {peer.name} on torch "
        f"{peer.torch_version} over gloo, one process a site"
    )
    return [Result("outer.oracle.torchft", worst, "ratio", note=note)]


def torchft_versions(peer: torchft_peer.Torchft, folder: Path, spec: RunSpec, plan: Plan) -> list[np.ndarray]:
    """Parameters after each outer step, f32[size]. Raises IsthmusError if a site fails."""
    (folder / "run.yaml").write_text(to_yaml(spec))
    lighthouse = torchft_peer.Lighthouse(peer, "127.0.0.1", plan.num_sites, folder / "lighthouse.log")
    arguments = ["--num-sites", str(plan.num_sites), "--num-steps", str(plan.num_steps)]
    arguments += ["--lighthouse", lighthouse.url]
    workers = [
        torchft_peer.worker(
            peer, folder, site, [*arguments, *(["--versions", str(folder)] if site == 0 else [])]
        )
        for site in range(plan.num_sites)
    ]
    try:
        for worker in workers:
            worker.start()
        late = wait_all(workers, _WORKERS_S)
    finally:
        for child in (*workers, lighthouse.child):
            child.kill()
    failed = [worker for worker in workers if worker in late or worker.exit_code]
    if failed:
        raise IsthmusError(f"the torchft peer failed\n{failed[0].last_words()}", where=str(failed[0].log))
    return [np.load(folder / f"{number + 1}.npy") for number in range(WINDOWS)]


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Norm of the difference / norm."""
    return float(np.linalg.norm(ours.astype(np.float64) - theirs) / np.linalg.norm(theirs.astype(np.float64)))


def _spec(folder: Path) -> RunSpec:
    """The text is one document, so that every target counts: then tokens weigh the sites as targets do."""
    text = folder / "text.txt"
    text.write_text(_library_text(_TEXT_BYTES))
    return RunSpec(
        model=ModelSpec(
            vocab_size=1024, hidden_size=64, num_layers=2, num_heads=2, num_kv_heads=2, ffn_size=192
        ),
        data=DataSpec(
            sources=[SourceSpec(path=str(text))], seq_len=64, held_out=0.0, cache=str(folder / "cache")
        ),
        train=TrainSpec(batch_size=8, grad_clip=0.0, lr=2e-3),
        outer=OuterSpec(inner_steps=INNER_STEPS, mode="strict", codec="fp32", down_codec="fp32"),
    )


def _library_text(size: int) -> str:
    """At least `size` characters of the standard library's own source."""
    parts: list[str] = []
    for path in _sources():
        parts.append(path.read_text("utf-8", errors="replace"))
        size -= len(parts[-1])
        if size <= 0:
            break
    return "".join(parts)


def _sources() -> Sequence[Path]:
    return sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
