"""Is a node fit to train? `python -m isthmus.train.burn_in --chip NAME --count N --disk DIR --figures FILE`
checks chips, memory, disk and the way between its ranks, and prints a `BurnReport`.

A chip that computes wrong without a word is found by the same product again and again, which must be the same
to the last bit on every chip and every core (Hochschild et al., "Cores that don't count", HotOS 2021).
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import torch

from isthmus import chips
from isthmus.comm.collective import Collective
from isthmus.comm.local import run_ranks
from isthmus.errors import CheckFailedError, InputError, IsthmusError
from isthmus.faults.burn_report import BurnProblem, BurnReport
from isthmus.faults.detect.disk_probe import probe_disk
from isthmus.journal.store import DiskStore

QUICK_S, FULL_S = 5.0, 60.0
WIDTH = 192
"""Of the product's matrices: all three fit into a core's own cache, so that units work, not memory."""
WALK = {False: 64 << 20, True: 1 << 30}
"""Bytes of memory that are walked, of each chip, in a quick and in a full check; never more than a quarter
of what is free."""
COPY = 64 << 20
MAX_RANKS = 8
SLOW, BROKEN = 0.7, 0.3
"""Of the rate that is to be expected: told of, and not fit."""
RATES = ("matmul_gflops", "copy_gbps")
BUSY = 1.5
"""Threads that want to run for each core: above it, rates say nothing."""
PATTERNS = (0x5555555555555555, -0x5555555555555556, 0, -1)
MEET_S = 60.0
"""For processes that have nothing else to do; on a busy node each waits for a core."""
DISK_S = 10.0
"""A block of one MiB takes this long only on a disk that hangs."""

Multiply = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass
class Findings:
    problems: list[BurnProblem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def fail(self, part: str, text: str) -> None:
        self.problems.append(BurnProblem(part, text))


@dataclass(frozen=True)
class Unit:
    """What computes: a chip, or a core of the CPU."""

    name: str
    device: str
    core: int | None = None


def burn_in(chip: str, count: int, disk: Path, full: bool) -> Findings:
    """Everything, within about `QUICK_S` or `FULL_S`."""
    budget_s = FULL_S if full else QUICK_S
    found = Findings()
    check_collective(min(max(count, 2), MAX_RANKS), found)  # forks, so it comes before any thread
    check_disk(disk, found)
    torch.set_num_threads(1)
    units = find_units(chip, count)
    check_units(units, 0.6 * budget_s, found)
    devices = dict.fromkeys(unit.device for unit in units)
    for device in devices:
        name = next(unit.name for unit in units if unit.device == device) if device != "cpu" else "memory"
        check_memory(device, name, WALK[full], 0.3 * budget_s / len(devices), found)
    return found


def find_units(chip: str, count: int) -> list[Unit]:
    """Raises InputError where the family or a chip is missing."""
    family = chips.get(chip)
    facts = family.probe()
    if family.device(0) == "cpu":
        return [Unit(f"core {core}", "cpu", core) for core in sorted(os.sched_getaffinity(0))]
    if facts.count < count:
        raise InputError(f"there are {facts.count} chips of {facts.model}, {count} are wanted", where=chip)
    return [Unit(f"chip {index}", family.device(index)) for index in range(count)]


# ---- computing


def check_units(
    units: Sequence[Unit], budget_s: float, found: Findings, multiply: Multiply = torch.matmul
) -> None:
    """Each computes the same product for its part of the time. Who differs from itself, from the others or
    from the true product is named."""
    left, right = _factors()
    true = (left.double() @ right.double()).float()
    results: dict[str, torch.Tensor] = {}
    rates: list[float] = []
    for unit in units:
        with _on(unit):
            result, rate = _burn(unit, left, right, budget_s / len(units), multiply, found)
        if not torch.allclose(result, true, rtol=1e-2 if unit.core is None else 1e-4, atol=1e-2):
            found.fail(unit.name, "its product is wrong")
        results[unit.name] = result
        rates.append(rate)
    usual = _most_frequent(list(results.values()))
    for name, result in results.items():
        if not torch.equal(result, usual) and not any(problem.part == name for problem in found.problems):
            found.fail(name, "its product differs from that of the others")
    found.figures["matmul_gflops"] = min(rates)


def _factors() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(20)
    shape = (WIDTH, WIDTH)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def _burn(
    unit: Unit, left: torch.Tensor, right: torch.Tensor, budget_s: float, multiply: Multiply, found: Findings
) -> tuple[torch.Tensor, float]:
    """The first product, and the rate of the quickest in GFLOP/s."""
    a, b = left.to(unit.device), right.to(unit.device)
    first = multiply(a, b).cpu()
    end_s, best_s = time.monotonic() + budget_s, float("inf")
    times = 0
    while time.monotonic() < end_s or times < 3:
        begin_s = time.perf_counter()
        result = multiply(a, b).cpu()
        best_s = min(best_s, time.perf_counter() - begin_s)
        times += 1
        if not torch.equal(result, first):
            wrong = int((result != first).sum())
            found.fail(unit.name, f"product {times} differs from the first one in {wrong} places")
            break
    return first, 2 * WIDTH**3 / best_s / 1e9


@contextmanager
def _on(unit: Unit) -> Iterator[None]:
    """This process runs on that core alone."""
    if unit.core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {unit.core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _most_frequent(results: list[torch.Tensor]) -> torch.Tensor:
    return max(results, key=lambda one: sum(torch.equal(one, other) for other in results))


# ---- memory


def check_memory(device: str, name: str, size: int, budget_s: float, found: Findings) -> None:
    """Patterns are written to a part of the memory and read back; and how fast a copy is."""
    size = min(size, _free(device) // 4) // 8 * 8
    if size < 1 << 20:
        found.warnings.append(f"{name}: too little is free to walk it")
        return
    end_s = time.monotonic() + budget_s
    words = torch.empty(size // 8, dtype=torch.int64, device=device)
    for pattern in PATTERNS:
        words.fill_(pattern)
        if bad := int((words != pattern).sum()):
            found.fail(name, f"{bad} words do not keep {pattern & (1 << 64) - 1:#018x}")
            return
        if time.monotonic() > end_s:
            break
    _walk_addresses(words, name, found)
    found.figures["walked_mib"] = found.figures.get("walked_mib", 0.0) + size / (1 << 20)
    found.figures["copy_gbps"] = min(found.figures.get("copy_gbps", float("inf")), _copy_rate(device))


def _walk_addresses(words: torch.Tensor, name: str, found: Findings) -> None:
    """Each word holds its own number: two that are one are found."""
    numbers = torch.arange(len(words), dtype=torch.int64, device=words.device)
    words.copy_(numbers)
    if bad := int((words != numbers).sum()):
        found.fail(name, f"{bad} words do not keep their number")


def _copy_rate(device: str) -> float:
    """10^9 bytes/s, read and written ones."""
    source = torch.zeros(COPY, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best_s = float("inf")
    for _ in range(4):
        begin_s = time.perf_counter()
        target.copy_(source)
        target[-1].item()
        best_s = min(best_s, time.perf_counter() - begin_s)
    return 2 * COPY / best_s / 1e9


def _free(device: str) -> int:
    if device != "cpu":
        return int(torch.get_device_module(device).mem_get_info(device)[0])
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 0


# ---- disk, and between ranks


def check_disk(folder: Path, found: Findings) -> None:
    probe = probe_disk(folder)
    if probe.error:
        found.fail("disk", f"{probe.error} in {probe.path}")
    elif probe.differs:
        found.fail("disk", f"what was read back in {probe.path} is not what was written")
    elif probe.duration_s > DISK_S:
        found.fail("disk", f"a block took {probe.duration_s:.1f} s in {probe.path}")
    found.figures["disk_block_s"] = probe.duration_s


def check_collective(world_size: int, found: Findings) -> None:
    """Ranks of this node meet and add up numbers that are known."""
    begin_s = time.monotonic()
    try:
        sums = run_ranks(_add_up, world_size, timeout_s=MEET_S)
    except IsthmusError as error:
        found.fail("collective", error.message.splitlines()[-1])
        return
    found.figures["collective_s"] = time.monotonic() - begin_s
    expected = float(sum(range(1, world_size + 1)))
    wrong = [rank for rank, total in enumerate(sums) if total != [expected] * len(total)]
    if wrong:
        found.fail("collective", f"ranks {', '.join(map(str, wrong))} have another sum")


def _add_up(group: Collective) -> list[float]:
    numbers = torch.full((1 << 16,), float(group.rank + 1))
    group.all_reduce_(numbers)
    return numbers.unique().tolist()


# ---- against what is known


def compare(found: Findings, file: Path) -> None:
    """With the node's own last figures, in `file`, and those of the site's other nodes, beside it. A busy
    machine's rates are not compared, nor kept."""
    busy = _load()
    if busy > BUSY:
        found.warnings.append(f"{busy:.1f} threads want to run for each core: rates are not compared")
        return
    others = [known for path in file.parent.glob("figures-*.json") if path != file and (known := _read(path))]
    earlier = _read(file)
    for name in RATES:
        rate = found.figures.get(name)
        if rate is None:
            continue
        if name in earlier:
            _judge(name, rate, earlier[name], "its own last time", found)
        elsewhere = [known[name] for known in others if name in known]
        if elsewhere:
            _judge(name, rate, statistics.median(elsewhere), "the site's other nodes", found)
    if not found.problems:
        best = {name: max(found.figures.get(name, 0.0), earlier.get(name, 0.0)) for name in RATES}
        DiskStore().write_atomic(file, msgspec.json.encode(best))


def _judge(name: str, rate: float, usual: float, whose: str, found: Findings) -> None:
    share = rate / usual if usual else 1.0
    text = f"{rate:.1f} is {share:.0%} of {whose} ({usual:.1f})"
    if share < BROKEN:
        found.fail(name, text)
    elif share < SLOW:
        found.warnings.append(f"{name}: {text}")


def _read(path: Path) -> dict[str, float]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, float])
    except (OSError, msgspec.MsgspecError):
        return {}


def _load() -> float:
    """Others' threads that run or want to, for each core."""
    running = int(Path("/proc/loadavg").read_text().split()[3].split("/")[0]) - 1
    return running / len(os.sched_getaffinity(0))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="isthmus.train.burn_in")
    parser.add_argument("--chip", default="cpu")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--disk", type=Path, required=True)
    parser.add_argument("--figures", type=Path, help="this node's figures; others' are beside it")
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args(argv)
    begin_s = time.monotonic()
    try:
        found = burn_in(options.chip, options.count, options.disk, options.full)
        if options.figures:
            compare(found, options.figures)
    except IsthmusError as error:
        found = Findings([BurnProblem(options.chip, error.message)])
    report = BurnReport(
        duration_s=time.monotonic() - begin_s,
        problems=found.problems,
        warnings=found.warnings,
        figures=found.figures,
    )
    print(msgspec.json.encode(report).decode())
    return CheckFailedError.exit_code if report.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
