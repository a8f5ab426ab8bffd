"""All detectors together, on pages of real files."""

from isthmus.faults.detect import Process, Readings, Watch
from isthmus.faults.detect.process import parse_stat, read_contention, read_process
from isthmus.faults.finding import Finding
from isthmus.faults.page import PageReader, PageWriter, Phase

STAT = "4242 (a (very) odd) name) S 1 2 3 0 -1 4194304 9 0 0 0 250 50 0 0 20 0 7 0 100 1000 300 "


def test_a_stat_line_is_read_behind_the_name():
    process = parse_stat(STAT + "0 " * 30)
    assert process.letter == "S"
    assert process.cpu_s > 0
    assert process.rss == 300 * 4096 or process.rss % 300 == 0


def test_this_process_runs_and_a_made_up_one_is_gone():
    import os

    process = read_process(os.getpid())
    assert process is not None
    assert process.letter == "R"
    assert process.rss > 1 << 20
    assert read_process(1 << 30) is None
    assert read_contention(1) >= 1.0


class Site:
    """Four ranks in one process, with a reader each."""

    def __init__(self, folder):
        self.pages = [PageWriter(folder / str(rank)) for rank in range(4)]
        self.readers = [PageReader(folder / str(rank)) for rank in range(4)]
        self.watch = Watch()
        self.step = 0
        self.told = 0
        self.now_s = 0.0

    def train(self, wrong_hash: int = -1, nan: int = -1) -> None:
        self.step += 1
        for rank, page in enumerate(self.pages):
            page.phase(Phase.FORWARD)
            if rank == nan:
                page.nonfinite()
            sequence = page.issue(self.step)
            page.wait(sequence)
            page.resume(sequence)
            page.saw(1.0, 3.0)
            page.end_step(self.step)
            page.hashed(self.step, self.step % 4, self.step + (rank == wrong_hash))

    def look(self) -> list[Finding]:
        self.now_s += 0.05
        readings = Readings(
            ranks=(0, 1, 2, 3),
            views={rank: reader.read() for rank, reader in enumerate(self.readers)},
            steps={rank: reader.records(self.told) for rank, reader in enumerate(self.readers)},
            states={rank: reader.states(self.told) for rank, reader in enumerate(self.readers)},
            processes={rank: Process(letter="R", cpu_s=self.now_s) for rank in range(4)},
        )
        self.told = self.step
        return self.watch.observe(self.now_s, readings)


def test_a_run_with_faults_of_several_kinds(tmp_path):
    site, found = Site(tmp_path), []
    for n in range(400):
        site.train(wrong_hash=1 if n == 100 else -1, nan=3 if n == 200 else -1)
        if n % 7 == 0:
            found += site.look()
    kinds = [(finding.kind, finding.rank) for finding in found if finding.kind != "fail_slow"]
    assert kinds == [("sdc", 1), ("nan", 3)]
    ended = {(finding.kind, finding.rank) for finding in site.watch.take_ended()}
    assert {("sdc", 1), ("nan", 3)} <= ended
