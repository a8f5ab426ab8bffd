"""Journal and readers: order, torn tails, full and failing disks, damaged logs."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from isthmus.clock import VirtualClock
from isthmus.errors import NotFoundError, StorageError
from isthmus.journal import writer
from isthmus.journal.events import EventsDropped, Fault, LinkSample, Note, RunFinished
from isthmus.journal.log import AppendLog
from isthmus.journal.memory_store import MemoryStore
from isthmus.journal.reader import Reader, follow, read
from isthmus.journal.store import DiskStore
from isthmus.journal.writer import Journal


class StubbornStore(DiskStore):
    """Refuses appends or syncs until told otherwise."""

    def __init__(self) -> None:
        self.refuses = {"append": False, "fsync": False}
        self.asked = threading.Event()

    def _ask(self, what: str) -> None:
        if self.refuses[what]:
            self.asked.set()
            raise StorageError("no space left")

    def append(self, path, *buffers):
        self._ask("append")
        super().append(path, *buffers)

    def fsync(self, path):
        self._ask("fsync")
        super().fsync(path)


def texts(run_dir: Path) -> list[str]:
    return [event.text for event in read(run_dir) if isinstance(event, Note)]


def note(text: str, at_s: float = 0.0) -> Note:
    return Note(level="info", text=text, wall_s=at_s)


def test_events_of_all_sources_come_in_time_order(tmp_path):
    clock = VirtualClock(100.0)
    with (
        Journal(tmp_path, "server", clock=clock) as server,
        Journal(tmp_path, "rank/a/0", clock=clock) as rank,
    ):
        for i in range(10):
            clock.sleep(1.0)
            (server if i % 2 else rank).emit(Note(level="info", text=str(i)))
    events = list(read(tmp_path))
    assert [event.text for event in events] == [str(i) for i in range(10)]  # pyright: ignore
    assert events[0].source == "rank/a/0"
    assert events[1].source == "server"
    assert [event.wall_s for event in events] == [101.0 + i for i in range(10)]
    assert sorted(path.name for path in (tmp_path / "journal").iterdir()) == ["rank-a-0", "server"]


def test_a_loss_that_is_not_a_number_survives(tmp_path):
    with Journal(tmp_path, "site/a") as journal:
        sample = LinkSample(
            site="a", bytes_up=1, bytes_down=2, rtt_s=float("nan"), up_bps=float("inf"), down_bps=0.0,
            resent_chunks=0, connected=True,
        )  # fmt: skip
        journal.emit(sample)
    (event,) = read(tmp_path)
    assert isinstance(event, LinkSample)
    assert event.rtt_s != event.rtt_s
    assert event.up_bps == float("inf")


def test_a_reader_sees_what_came_since(tmp_path):
    with Journal(tmp_path, "a") as journal:
        journal.emit(note("one", 1.0))
    reader = Reader(tmp_path)
    assert [event.wall_s for event in reader.poll()] == [1.0]
    assert list(reader.poll()) == []
    with Journal(tmp_path, "a") as again, Journal(tmp_path, "b") as other:
        again.emit(note("two", 2.0))
        other.emit(note("three", 3.0))
    assert [event.wall_s for event in reader.poll()] == [2.0, 3.0]


def test_a_torn_tail_is_left_out_and_written_over(tmp_path):
    with Journal(tmp_path, "a") as journal:
        journal.emit(note("whole"))
    (segment,) = (tmp_path / "journal" / "a").glob("*.log")
    data = segment.read_bytes()
    segment.write_bytes(data + data[: len(data) // 2])
    assert texts(tmp_path) == ["whole"]
    with Journal(tmp_path, "a") as journal:
        journal.emit(note("next"))
    assert texts(tmp_path) == ["whole", "next"]


def test_a_full_disk_is_waited_out(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "RETRY_EVERY_S", 0.01)
    monkeypatch.setattr(writer, "BUFFERED_EVENTS", 5)
    store = StubbornStore()
    store.refuses["append"] = True
    with Journal(tmp_path, "a", store=store) as journal:
        for i in range(8):
            journal.emit(note(str(i)))
        assert store.asked.wait(5)
        store.refuses["append"] = False
    events = list(read(tmp_path))
    dropped = [event for event in events if isinstance(event, EventsDropped)]
    assert sum(event.count for event in dropped) == 8 - len(texts(tmp_path))
    assert texts(tmp_path)[-1] == "7"


def test_events_whose_sync_failed_are_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "RETRY_EVERY_S", 0.01)
    monkeypatch.setattr(writer, "SYNC_EVERY_S", 0.01)
    store = StubbornStore()
    with Journal(tmp_path, "a", store=store) as journal:
        journal.emit(note("early"))
        store.refuses["fsync"] = True
        journal.emit(note("late"))
        assert store.asked.wait(5)
        store.refuses["fsync"] = False
    assert texts(tmp_path) == ["early", "late"]


def test_a_disk_that_never_recovers_holds_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "RETRY_EVERY_S", 0.01)
    with Journal(tmp_path, "a", store=MemoryStore(capacity_bytes=0)) as journal:
        journal.emit(Fault(subject="disk", kind="disk_full", detail=""))


def test_a_second_process_of_a_source_gets_a_folder_of_its_own(tmp_path):
    code = (
        "import sys; from pathlib import Path; from isthmus.journal.writer import Journal; "
        "from isthmus.journal.events import Note\n"
        "with Journal(Path(sys.argv[1]), 'a') as journal: journal.emit(Note(level='info', text='second'))"
    )
    folder = tmp_path / "journal" / "a"
    folder.mkdir(parents=True)
    with DiskStore().lock(folder):
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    with Journal(tmp_path, "a") as journal:
        journal.emit(note("first"))
    assert (tmp_path / "journal" / "a~1").is_dir()
    assert set(texts(tmp_path)) == {"first", "second"}


def test_a_damaged_log_is_told_and_the_others_are_read(tmp_path):
    log = AppendLog(DiskStore(), tmp_path / "journal" / "a")
    with Journal(tmp_path, "b") as journal:
        journal.emit(note("sound", 1.0))
    for _ in range(3):
        log.append(b"x" * 50)
    log.close()
    (segment,) = (tmp_path / "journal" / "a").glob("*.log")
    data = bytearray(segment.read_bytes())
    data[60] ^= 1
    segment.write_bytes(data)
    problem, sound = read(tmp_path)
    assert isinstance(problem, Note)
    assert problem.level == "error"
    assert f"{segment}:0" in problem.text
    assert isinstance(sound, Note)
    with Journal(tmp_path, "a") as journal:
        journal.emit(note("on", 2.0))
    assert (tmp_path / "journal" / "a~1").is_dir()
    assert texts(tmp_path)[1:] == ["sound", "on"]


def test_events_of_a_newer_version_are_passed_over(tmp_path):
    with Journal(tmp_path, "a") as journal:
        journal.emit(note("known"))
    log = AppendLog(DiskStore(), tmp_path / "journal" / "b")
    log.append(b"\x81\xa4type\xa6Future")
    assert texts(tmp_path) == ["known"]


def test_follow_ends_with_the_run(tmp_path):
    with Journal(tmp_path, "a") as journal:
        journal.emit(note("one", 1.0))
        journal.emit(RunFinished(reason="budget", tokens=10, wall_s=2.0))
    assert [event.wall_s for event in follow(tmp_path, VirtualClock())] == [1.0, 2.0]


def test_no_journal_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(NotFoundError) as caught:
        read(tmp_path)
    assert caught.value.where == str(tmp_path)
    assert caught.value.hint
