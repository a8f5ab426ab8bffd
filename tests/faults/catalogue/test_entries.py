"""Every entry of the catalogue is documented and tested, and none is taken for another one."""

import re
import time
from collections import Counter
from pathlib import Path

import pytest

from isthmus.faults.catalogue.check import problems
from isthmus.faults.catalogue.entry import Entry
from isthmus.faults.catalogue.find import Signatures
from isthmus.faults.catalogue.load import FOLDER, load_catalogue, read_entries
from isthmus.faults.diagnose.weights import safe_action
from isthmus.spec.document import read_document

ENTRIES = load_catalogue().entries
BENIGN = Path(__file__).with_name("benign.txt").read_text(encoding="utf-8").splitlines()
PREFIXES = ("", "[rank3]: ", "2025-11-24 22:27:20,620 ", "(Actor pid=9671, ip=10.0.0.3) ", "[default7]:")
MAX_COLLISIONS = 0.02
KEPT_BY_THE_AGENT = {"ISTHMUS-DESYNC", "ISTHMUS-SDC-VOTE"}
"""Its keeper restarts the rank, and bounds how often; after a run has ended `diagnose` advises otherwise."""
SOURCE = re.compile(r"https?://\S+|[\w.-]+/[\w.-]+( \S.*)?|[\w.-]+ \S+")


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_an_entry_is_complete_and_hits_its_tests(entry: Entry):
    assert list(problems(entry)) == []


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_an_entry_names_what_it_rests_on(entry: Entry):
    assert all(SOURCE.fullmatch(source) for source in entry.sources), entry.sources


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_its_own_lines_lead_to_it_whatever_stands_before_them(entry: Entry, signatures: Signatures):
    anchored = any(text.startswith("^") for text in entry.signature)  # the output of a tool, not of a rank
    for line in entry.tests:
        for prefix in PREFIXES[:1] if anchored else PREFIXES:
            assert entry.id in [hit.id for hit in signatures.hits(prefix + line)], prefix + line


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_what_is_done_about_it_can_do_no_harm(entry: Entry):
    if entry.id not in KEPT_BY_THE_AGENT:
        assert safe_action(entry.kind, entry.action, 1.0) == entry.action


def test_no_two_entries_have_a_signature_or_a_line_in_common():
    for field in ("signature", "tests"):
        owners = Counter(text for entry in ENTRIES for text in set(getattr(entry, field)))
        assert [text for text, number in owners.items() if number > 1] == []


def test_few_lines_of_a_cause_hit_another_cause(signatures: Signatures):
    lines = [(entry.id, line) for entry in ENTRIES if not entry.victim for line in entry.tests]
    wrong = [
        (name, [hit.id for hit in others], line)
        for name, line in lines
        if (others := [hit for hit in signatures.hits(line) if hit.id != name and not hit.victim])
    ]
    assert len(wrong) <= MAX_COLLISIONS * len(lines), wrong


@pytest.mark.parametrize("line", BENIGN)
def test_a_line_of_good_training_hits_nothing(line: str, signatures: Signatures):
    assert [hit.id for hit in signatures.hits(line)] == []


def test_the_index_finds_what_all_signatures_one_by_one_find(signatures: Signatures):
    lines = [line for entry in ENTRIES for line in entry.tests][::7] + BENIGN
    for line in lines:
        slow = {entry.id for entry in ENTRIES if any(re.search(text, line) for text in entry.signature)}
        assert {hit.id for hit in signatures.hits(line)} <= slow
        assert slow - {"PY-EXC"} <= {hit.id for hit in signatures.hits(line)}


def test_no_key_is_given_twice():
    for path in FOLDER.glob("*.yaml"):
        assert len(read_document(path).tree["entries"]) == len(read_entries(path))


def test_the_catalogue_loads_fast():
    took_s = []
    for _ in range(3):
        start_s = time.process_time()
        for path in FOLDER.glob("*.yaml"):
            read_entries(path)
        took_s.append(time.process_time() - start_s)
    assert min(took_s) < 0.3
