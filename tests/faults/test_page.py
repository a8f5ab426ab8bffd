"""The page of a rank: what is written is what is read, whole or not at all."""

import math
import os
import signal
import struct
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.errors import CorruptError
from isthmus.faults.page import RING, PageReader, PageWriter, Phase, StateHash, Word

FLOATS = st.floats(allow_nan=True, allow_infinity=True)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "rank0"


def test_a_fresh_page_is_at_the_start(path):
    PageWriter(path)
    view = PageReader(path).read()
    assert (view.pid, view.phase, view.step, view.issued) == (os.getpid(), Phase.START, 0, 0)
    assert (view.waiting, view.nonfinite_step, view.hash_step, view.left) == (0, -1, -1, False)
    assert view.pulse_s is None
    assert PageReader(path).records(-1) == []
    assert PageReader(path).states(-1) == []


def test_what_a_rank_takes_of_its_chip(path):
    PageWriter(path).memory(3 << 30, 70 << 30)
    view = PageReader(path).read()
    assert (view.memory, view.memory_limit) == (3 << 30, 70 << 30)


def test_without_a_path_it_is_this_process_alone():
    page = PageWriter()
    page.end_step(1)
    page.close()


def test_what_is_no_page_is_refused(path):
    path.write_bytes(b"x" * 100)
    with pytest.raises(CorruptError):
        PageReader(path)
    path.write_bytes(b"x" * 100_000)
    with pytest.raises(CorruptError):
        PageReader(path)
    with pytest.raises(FileNotFoundError):
        PageReader(path.with_name("none"))


@given(st.lists(st.tuples(FLOATS, FLOATS, st.integers(0, 1 << 40), st.integers()), max_size=150))
def test_records_and_hashes_of_the_last_steps_are_read_as_they_were_written(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("page") / "rank0"
    page, reader = PageWriter(path), PageReader(path)
    for step, (norm, loss, piece, value) in enumerate(steps, start=1):
        page.saw(norm, loss)
        page.end_step(step)
        page.hashed(step, piece, value)
    kept = range(max(1, len(steps) - RING + 1), len(steps) + 1)
    records = reader.records(0)
    assert [record.step for record in records] == list(kept)
    bits = lambda *values: struct.pack(f"{len(values)}d", *values)  # noqa: E731
    for record in records:
        assert bits(record.grad_norm, record.loss) == bits(*steps[record.step - 1][:2])
    expected = [StateHash(s, steps[s - 1][2], steps[s - 1][3] & (1 << 63) - 1) for s in kept]
    assert reader.states(0) == expected
    assert reader.read().step == len(steps)
    page.close()
    reader.close()


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=150))
def test_signatures_of_the_last_collectives_are_kept(tmp_path_factory, signatures):
    path = tmp_path_factory.mktemp("page") / "rank0"
    page = PageWriter(path)
    for signature in signatures:
        sequence = page.issue(signature)
        page.wait(sequence)
        assert PageReader(path).read().waiting == sequence
        page.resume(sequence)
    view = PageReader(path).read()
    assert (view.issued, view.finished, view.waiting) == (len(signatures), len(signatures), 0)
    assert list(view.collectives.values()) == [s & (1 << 63) - 1 for s in signatures[-RING:]]
    assert list(view.collectives) == list(range(1, len(signatures) + 1))[-RING:]


def test_time_is_counted_where_it_went(path):
    page = PageWriter(path)
    page.begin_step()
    page.phase(Phase.LOAD)
    time.sleep(0.02)
    page.phase(Phase.FORWARD)
    time.sleep(0.03)
    page.wait(page.issue(1))
    time.sleep(0.04)
    page.resume(1)
    page.phase(Phase.CHECKPOINT)
    time.sleep(0.5)
    page.wait(page.issue(2))
    time.sleep(0.02)
    page.resume(2)
    page.phase(Phase.BOUNDARY)
    page.end_step(1)
    (record,) = PageReader(path).records(0)
    assert record.data_s >= 0.02
    assert record.wait_s >= 0.06
    assert 0.03 <= record.compute_s < 0.5
    assert (record.grad_norm, record.loss) == (0.0, 0.0)


def test_a_run_of_bad_gradients_is_known_by_its_first_step(path):
    page, reader = PageWriter(path), PageReader(path)
    bad = {3, 4, 5, 9}
    seen = []
    for step in range(12):
        if step in bad:
            page.nonfinite()
            page.nonfinite()
        page.end_step(step + 1)
        seen.append(reader.read().nonfinite_step)
    assert seen == [-1, -1, -1, 3, 3, 3, 3, 3, 3, 9, 9, 9]


def test_a_new_group_makes_later_steps_void(path):
    page, reader = PageWriter(path), PageReader(path)
    for step in range(1, 31):
        page.issue(step)
        page.end_step(step)
        page.hashed(step, 0, step)
    page.regrouped(2, 20)
    view = reader.read()
    assert (view.generation, view.step, view.issued, view.hash_step) == (2, 20, 0, -1)
    page.hashed(30, 0, 1)
    assert [state.step for state in reader.states(0)] == [*range(1, 21), 30]
    page.end_step(21)
    assert [record.step for record in reader.records(18)] == [19, 20, 21]


def test_a_pulse_tells_of_another_thread(path):
    page = PageWriter(path)
    page.pulse()
    pulse_s = PageReader(path).read().pulse_s
    assert pulse_s is not None
    assert 0 <= pulse_s < 10


def test_a_record_that_does_not_add_up_is_left_out(path):
    page, reader = PageWriter(path), PageReader(path)
    for step in (1, 2, 3):
        page.end_step(step)
        page.hashed(step, 0, step)
    page._words[96 + 2 * 8 + 1] += 1
    page._words[608 + 2 * 4 + 2] += 1
    assert [record.step for record in reader.records(0)] == [1, 3]
    assert [state.step for state in reader.states(0)] == [1, 3]


def write_for_ever(path: Path) -> None:
    page, step = PageWriter(path), 0
    while True:
        step += 1
        page.wait(page.issue(step * 7))
        page.resume(step)
        page.saw(float(step), -float(step))
        page.end_step(step)
        page.hashed(step, step % 13, step * 3)


def test_a_reader_never_takes_half_a_record_for_a_whole_one(path):
    writer = get_context("fork").Process(target=write_for_ever, args=(path,))
    writer.start()
    try:
        while not path.exists() or path.stat().st_size < 6912:
            time.sleep(0.001)
        reader = _open(path)
        read = last = 0
        until_s = time.monotonic() + 1.5
        while time.monotonic() < until_s:
            for record in reader.records(0):
                assert record.grad_norm == -record.loss == record.step
                read += 1
            for state in reader.states(0):
                assert (state.piece, state.value) == (state.step % 13, state.step * 3)
            view = reader.read()
            assert view.step >= last
            last = view.step
            for sequence, signature in view.collectives.items():
                assert signature == sequence * 7
            if view.hash_step >= 0:
                assert view.hash_step >= view.step - 1
        assert read > 100
    finally:
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()


def _open(path: Path) -> PageReader:
    while True:
        try:
            return PageReader(path)
        except CorruptError:
            time.sleep(0.001)


def test_the_layout_has_room_for_its_words():
    assert max(Word) < 32
    assert math.log2(RING).is_integer()


def test_collectives_of_a_view_are_those_that_the_ring_still_holds(path):
    page = PageWriter(path)
    for number in range(1, RING + 11):
        page.issue(100 + number)
    found = PageReader(path).read().collectives
    assert dict(found) == {number: 100 + number for number in range(12, RING + 11)}
    assert len(found) == RING - 1
    assert 11 not in found
