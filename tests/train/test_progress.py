import io

from isthmus.train import progress


def test_says_where_training_stands_when_it_is_time(monkeypatch):
    out = io.StringIO()
    line = progress.ProgressLine("jinan", out)
    line.after_step(1, 5.0, 100, 0.1)
    assert out.getvalue() == ""
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    line.after_step(2, 4.0, 100, 0.2)
    line.after_step(3, 3.0, 100, 1.0)
    first, last = out.getvalue().splitlines()
    assert first.startswith("jinan: step 2  loss 4.000  ")
    assert "20%" in first
    assert first.endswith(" left")
    assert last.endswith("100%")
