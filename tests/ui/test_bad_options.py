"""Values that cannot be meant are refused before anything starts, with the option's name."""

import pytest

from isthmus.ui import cli

NODE = ["node", "--fleet", "fleet.yaml", "--site", "jinan", "--certs", "certs"]


@pytest.mark.parametrize(
    ("words", "code", "where"),
    [
        (["run", "--nproc", "0", "--", "train.py"], 2, "--nproc"),
        (["run", "--standbys", "-1", "--", "train.py"], 2, "--standbys"),
        (["check", "node", "--count", "0"], 2, "--count"),
        (["check", "node", "--chip", "h1000"], 2, "unknown chip 'h1000'"),
        (["check", "node", "--disk", "missing"], 3, "--disk missing"),
        (["train", "--listen", "7800"], 4, "--listen"),
        ([*NODE, "--join", "10.0.0.1"], 4, "--join"),
    ],
)
def test_bad_values(words: list[str], code: int, where: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(words) == code
    said = capsys.readouterr().err
    assert where in said
    assert "hint: " in said
