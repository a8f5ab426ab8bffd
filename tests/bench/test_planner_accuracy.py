"""The benchmark of predictions on made-up runs: nothing is scored by what saw it."""

from pathlib import Path

import pytest

from isthmus.errors import NotFoundError
from isthmus_bench.planner import accuracy, fit, folds

HEADER = (
    "id,source,model,chip,n_chips,tp,pp,dp,micro_batch,global_batch,seq,precision,recompute,"
    "tokens_per_s_per_chip\n"
)


def made_up() -> str:
    """Two systems on two chips; the larger the model and tp, the slower."""
    lines: list[str] = []
    for source, speed in (("llm-foundry", 1.0), ("Megatron-Bridge 26.04", 1.1)):
        for chip, rate in (("a100", 3000), ("h100", 8000)):
            for model, part in (("Llama3-8B", 1.0), ("LLaMA2-13B", 0.6)):
                for tp, less in ((1, 1.0), (2, 0.95), (4, 0.85)):
                    tokens = rate * speed * part * less
                    layout = f"16,{tp},1,{16 // tp},1,64,4096,bf16,none"
                    lines.append(f"r{len(lines)},{source},{model},{chip},{layout},{tokens:.1f}")
    return HEADER + "\n".join(lines) + "\n"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[folds.Run]:
    path = tmp_path / "rows.csv"
    path.write_text(made_up())
    monkeypatch.setenv(folds.VARIABLE, str(path))
    return folds.published_runs()


def test_without_rows_the_hint_names_the_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(folds.VARIABLE, raising=False)
    with pytest.raises(NotFoundError) as refused:
        folds.read_published()
    assert folds.VARIABLE in (refused.value.hint or "")


def test_without_rows_the_shipped_runs_are_judged(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(folds.VARIABLE, raising=False)
    runs = folds.published_runs()
    assert len(runs) > 300
    assert all(run.seen.model and run.seen.tokens > 0 for run in runs)


def test_folds_hold_every_run_once(runs: list[folds.Run]):
    for parts in (folds.by_fold(runs), folds.by_source(runs), folds.by_framework(runs)):
        names = sorted(run.id for part in parts for run in part)
        assert names == sorted(run.id for run in runs)


def test_what_is_scored_was_not_seen(runs: list[folds.Run], monkeypatch: pytest.MonkeyPatch):
    real = folds.predicted

    def watched(train: list[folds.Run], test: list[folds.Run]) -> list[folds.Said]:
        assert not {run.id for run in train} & {run.id for run in test}
        return real(train, test)

    monkeypatch.setattr(folds, "predicted", watched)
    said = folds.left_out_but_one(runs, folds.by_source(runs), 0)
    assert len(said) == len(runs) - 4
    assert len(folds.left_out(runs, folds.by_fold(runs)[:2])) == 6


def test_all_figures_are_there(runs: list[folds.Run]):
    results = {result.id: result for result in accuracy.run(quick=False)}
    assert set(results) == {
        "planner.time_error.calibrated", "planner.time_error.calibrated.p90",
        "planner.time_error.calibrated.source_out", "planner.time_error.unseen",
        "planner.time_error.unseen.worst_source", "planner.time_error.unseen.system",
        "planner.ranking", "planner.ranking.same_work", "planner.time_error.coverage",
    }  # fmt: skip
    assert 0 < results["planner.time_error.calibrated"].value < 0.2
    assert results["planner.time_error.unseen"].value >= results["planner.time_error.calibrated"].value * 0.5
    assert results["planner.ranking"].value > 0.8


def test_the_fit_writes_the_same_file_twice(
    tmp_path: Path, runs: list[folds.Run], capsys: pytest.CaptureFixture[str]
):
    rows, one, two = tmp_path / "rows.csv", tmp_path / "one.json", tmp_path / "two.json"
    assert fit.main([str(rows), str(one)]) == fit.main([str(rows), str(two)]) == 0
    assert one.read_bytes() == two.read_bytes()
    assert "fitted on 24 published runs of 2 sources" in capsys.readouterr().out
    assert fit.main([]) == 2
