"""Drafts of entries from logs."""

import re
from pathlib import Path

import pytest

from isthmus.errors import InputError
from isthmus.faults.catalogue import pattern
from isthmus.faults.catalogue.find import Signatures
from isthmus.faults.catalogue.learn import draft, generalise, guess_class, to_yaml
from isthmus.faults.catalogue.load import load_catalogue

LOG = """\
2025-11-24 22:27:20,620 INFO step 400 loss 3.1
[rank1]: Traceback (most recent call last):
[rank1]:   File "/opt/train.py", line 60, in <module>
[rank1]: FluxError: coupling 0x7f31a0 to 10.0.0.7:4810 lost after 31.5 s, see /var/log/flux/17.log
[rank2]: RuntimeError: DataLoader worker (pid 1817) is killed by signal: Killed.
[rank2]: FluxError: coupling 0x7f31b8 to 10.0.0.9:4822 lost after 12 s, see /var/log/flux/18.log
"""


def test_the_unknown_line_is_drafted(signatures: Signatures):
    found = draft(LOG.splitlines(), signatures)
    assert found is not None
    assert found.title.startswith("FluxError: coupling")
    assert found.times == 2
    assert all(re.search(found.signature, line) for line in found.tests)
    assert not re.search(r"7f31a0|4810|31\.5|17\.log", found.signature)


def test_only_lines_of_one_rank(signatures: Signatures):
    found = draft(LOG.splitlines(), signatures, rank=2)
    assert found is not None
    assert found.tests == [
        "[rank2]: FluxError: coupling 0x7f31b8 to 10.0.0.9:4822 lost after 12 s, see /var/log/flux/18.log"
    ]
    assert draft(["[rank1]: FluxError: lost coupling"], signatures, rank=2) is None


def test_what_the_catalogue_knows_is_not_drafted(signatures: Signatures):
    assert (
        draft(["RuntimeError: DataLoader worker (pid 1817) is killed by signal: Killed."], signatures) is None
    )
    assert draft(["all is well"], signatures) is None


def test_a_draft_is_refused_until_it_is_completed(tmp_path: Path, signatures: Signatures):
    found = draft(LOG.splitlines(), signatures)
    assert found is not None
    path = tmp_path / "new.yaml"
    path.write_text(to_yaml(found))
    with pytest.raises(InputError, match="'cause' is empty"):
        load_catalogue(tmp_path)
    whole = (
        to_yaml(found)
        .replace("cause: ''", "cause: The coupling broke.")
        .replace("verify: ''", "verify: It holds.")
    )
    path.write_text(whole)
    with pytest.raises(InputError, match="'sources' is empty"):
        load_catalogue(tmp_path)
    path.write_text(whole.replace("sources: []", "sources: ['https://example.org/flux']"))
    known = Signatures(load_catalogue(tmp_path).entries)
    fresh = "[rank5]: FluxError: coupling 0xbeef to 192.168.1.4:99 lost after 7.25 s, see /tmp/flux/99.log"
    assert [hit.id for hit in known.hits(fresh)] == [found.id]


@pytest.mark.parametrize(
    ("line", "other"),
    [
        (
            "error: job 5f0c2a4e-1111-4a4a-9b9b-0123456789ab failed",
            "error: job 00000000-aaaa-4bbb-8ccc-ffffffffffff failed",
        ),
        ("error: took 1.5e-3 s, not 2", "error: took 7 s, not -3.25"),
        ("error: cannot fetch https://a.b/c?d=1 now", "error: cannot fetch http://x/y now"),
        ("error: device 0000:b3:00.0 failed", "error: device 0000:1a:00.1 failed"),
        ("[rank1]: 2025-11-24 22:27:20,620 link down [a+b] (c) {d}", "link down [a+b] (c) {d}"),
    ],
)  # fmt: skip
def test_what_changes_may_be_anything(line: str, other: str):
    signature = generalise(line)
    assert pattern.problem(signature) is None
    assert re.search(signature, line)
    assert re.search(signature, other)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("loss is NaN at step 4", "nan"),
        ("CUDA out of memory on device 3", "oom_device"),
        ("Connection refused by 10.0.0.1", "network"),
        ("Segmentation fault", "crash"),
        ("wombat expected", "user_code"),
    ],
)
def test_the_class_is_guessed_from_the_words(message: str, kind: str):
    assert guess_class(message) == kind
