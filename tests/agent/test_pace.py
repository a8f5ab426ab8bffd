"""How a script's steps come to the journal."""

from types import SimpleNamespace

from isthmus.agent.pace import Pace
from isthmus.faults.page import PageWriter, page_file
from isthmus.journal.events import StepDone


def test_the_last_steps_of_a_process_whose_page_is_gone_are_told(tmp_path):
    told: list[StepDone] = []
    pace = Pace(tmp_path, "here", SimpleNamespace(emit=told.append))  # pyright: ignore
    path = page_file(tmp_path, "local/1.0")
    page = PageWriter(path)
    page.saw(1.0, 3.5)
    page.end_step(1)
    pace.look()
    for step in range(2, 38):
        page.saw(1.0, 2.5)
        page.end_step(step)
    page.close()
    path.unlink()
    pace.close()
    assert [(each.step, each.steps, each.loss) for each in told] == [(1, 1, 3.5), (37, 36, 2.5)]


def test_an_empty_folder_tells_nothing(tmp_path):
    told: list[StepDone] = []
    pace = Pace(tmp_path, "here", SimpleNamespace(emit=told.append))  # pyright: ignore
    (tmp_path / "local-1.0.page").write_bytes(b"no page")
    pace.look()
    pace.close()
    assert told == []
