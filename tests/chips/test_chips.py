import subprocess
import sys
from pathlib import Path

import pytest

from isthmus import chips
from isthmus.chips.chip import choose_dtype
from isthmus.chips.cpu import _cpuinfo
from isthmus.chips.host import memory_limit
from isthmus.errors import InputError


def test_names_need_no_torch():
    code = "import isthmus.chips as c, sys; c.family_of('h100'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("name", "family"),
    [("cpu", "cpu"), ("h100", "cuda"), ("A800", "cuda"), ("ascend910b", "ascend"), ("Ascend-910B", "ascend")],
)
def test_models_and_families(name, family):
    assert chips.family_of(name) == family
    assert chips.get(name).family == family


def test_every_family_has_a_file():
    folder = Path(chips.__file__).parent
    assert all((folder / f"{family}.py").exists() for family in chips.FAMILIES)


def test_unknown_chip_lists_the_known():
    with pytest.raises(InputError, match=r"unknown chip 'tpu9'[^$]*ascend910b") as raised:
        chips.get("tpu9")
    assert raised.value.exit_code == 2


def test_ascend_without_torch_npu_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_npu", None)
    with pytest.raises(InputError, match="torch_npu"):
        chips.get("ascend910b").probe()


def test_cuda_without_a_device_says_what_to_check(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputError, match="nvidia-smi"):
        chips.get("h100").probe()


def test_cpu_probe():
    cpu = chips.get("cpu")
    facts = cpu.probe()
    assert facts.count >= 1
    assert facts.memory_bytes > 2**28
    assert cpu.device(3) == "cpu"
    assert cpu.best_dtype().dtype in ("fp32", "bf16")


def test_cpuinfo_where_the_system_has_none(tmp_path):
    model, features = _cpuinfo(tmp_path / "missing")
    assert model
    assert features == []


def test_container_memory_limit(tmp_path):
    machine = memory_limit(tmp_path)
    assert machine > 2**28
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_limit(tmp_path) == machine
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("2147483648\n")
    assert memory_limit(tmp_path) == 2**31
    (tmp_path / "memory.max").write_text("1048576\n")
    assert memory_limit(tmp_path) == 2**20


@pytest.mark.parametrize(("bf16_s", "dtype"), [(1.0, "fp32"), (0.7, "fp32"), (0.6, "bf16")])
def test_bf16_is_taken_only_where_it_pays(monkeypatch, bf16_s, dtype):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def spend(duration_s):
        now[0] += duration_s

    choice = choose_dtype(1e9, lambda: spend(1.0), lambda: spend(bf16_s))
    assert choice.dtype == dtype
    assert choice.fp32_gflops == 1.0


def test_the_cpu_tells_time_and_memory():
    chip = chips.get("cpu")
    before, held = chip.mark(), chip.reset_peak()
    block = bytearray(b"1" * (64 << 20))
    chip.synchronize()
    assert chip.seconds(before, chip.mark()) > 0
    assert chip.peak_bytes() >= held + len(block) // 2
    assert chip.fixed_bytes() > 0
