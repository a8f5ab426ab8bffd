"""All regular expressions that are looked for at once: signatures of the catalogue and `STRUCTURE`.

google-re2 runs hundreds of them in one pass over a block of a log, and says which of them may match there.
Each match is then confirmed by Python's `re` in one line, so that the catalogue means what its entries say.
"""

import re
from collections.abc import Sequence
from functools import cached_property

import re2

from isthmus.faults.catalogue.entry import Entry

STRUCTURE: dict[str, str] = {
    "traceback": r"Traceback \(most recent call last\)",
    "raised": r"\b[A-Za-z_][\w.]*(?:Error|Exception|Interrupt|Exit|NotMet|Timeout|Full|Empty)\b(?::| *$)",
    "abort": r"Fatal Python error: |terminate called",
    "timeout": r"Work[NH]CCL\(|Timeout at NCCL work: |seq_num \d+ dispatch timeout",
    "exit": r"\bexitcode *: *-?\d+|[Ee]xited with (?:exit )?code|exit ?code:? \d+|return code[ =:]+-?\d+",
    "ended": r"exited on signal \d+|died with <Signals\.|\btask \d+: \w+|exit with status code \d+",
    "closed": r"Sending process \d+ closing signal|Closing process \d+ via signal",
    "exit_rank": r"\brank +: \d+ \(local_rank: \d+\)",
    "first_failure": r"Root Cause \(first observed failure\)",
    "remote": r"[Rr]emote[ _]?(?:[Rr]ank|physic)|failed to pass monitoredBarrier|//\w+//\d+/\d+",
    "setup": r"retrieving (?:ncclUniqueId|HCCL root info) from|didn't (?:join|finish)",
    "waiting": r"[Ww]ait(?:s|ing|ed)? (?:for|on) rank|from rank \d+ timed out",
    "lost": r"[Hh]eartbeat (?:[Ll]ost|of rank|from rank)|rank \d+ (?:is|has) \w+",
    "process": r"\(PID:\d+, Device:\d+, RankID:\d+\)|rankNum\[\d+\]|local_rank: \d+ \(pid: \d+\)",
    "both": r"rank[ =:]+\d+\b.{0,40}\bpid[ =:]+\d+|pid[ =:]+\d+\b.{0,40}\brank[ =:]+\d+",
    "setting": r"set by environment to",
    "device": r"\bset_?[dD]evice\(\d+\)|\bdevId[=:]\d+|\bopen device \d+ failed",
    "world": r"world[_ ]size[ =:]+\d+|nranks \d+",
}
"""Lines that say who, whom they wait for and how processes ended, whatever fault it was."""

_LOOK = re.compile(r"\(\?<?[=!](?:[^()\\]|\\.)*\)")
_BLOCK_MEMORY = 512 << 20
"""Bound of RE2's state machine, bytes; it is made as far as the text needs it."""


class Patterns:
    """`candidates` of a text, then `confirm` one in a line. Numbers below `num_structure` are STRUCTURE's."""

    def __init__(self, entries: Sequence[Entry]):
        owned = [(entry.id, pattern) for entry in entries for pattern in entry.signature]
        self._names = [*STRUCTURE, *(name for name, _ in owned)]
        self._texts = [*STRUCTURE.values(), *(text for _, text in owned)]
        self.num_structure = len(STRUCTURE)
        self._compiled: dict[int, re.Pattern[str]] = {}

    def name(self, index: int) -> str:
        """Key of STRUCTURE, or an entry's id."""
        return self._names[index]

    def candidates(self, text: bytes) -> list[int]:
        """Those that may match in some line of it; a superset."""
        found = list(self._set.match(text))
        if self._slow:
            decoded = text.decode("utf-8", "replace")
            found += [index for index in self._slow if self._pattern(index).search(decoded)]
        return found

    def confirm(self, index: int, line: str) -> bool:
        return self._pattern(index).search(line) is not None

    def entries_in(self, line: str) -> tuple[str, ...]:
        """Ids of the entries that it matches."""
        sure = [
            index
            for index in self.candidates(line.encode())
            if index >= self.num_structure and self.confirm(index, line)
        ]
        return tuple(dict.fromkeys(map(self.name, sure)))

    def _pattern(self, index: int) -> re.Pattern[str]:
        if index not in self._compiled:
            self._compiled[index] = re.compile(self._texts[index], re.MULTILINE)
        return self._compiled[index]

    @cached_property
    def _built(self) -> tuple[re2.Set, list[int], list[int]]:
        options = re2.Options()
        options.log_errors = False
        options.max_mem = _BLOCK_MEMORY
        options.encoding = re2.Options.Encoding.LATIN1
        built, order, slow = re2.Set.SearchSet(options), [], []
        for index, text in enumerate(self._texts):
            (order if _add(built, text) else slow).append(index)
        built.Compile()
        return built, order, slow

    @property
    def _slow(self) -> list[int]:
        return self._built[2]

    @cached_property
    def _set(self) -> "_Ordered":
        return _Ordered(self._built[0], self._built[1])


class _Ordered:
    """A set whose numbers are those of `Patterns`."""

    def __init__(self, built: re2.Set, order: list[int]):
        self._built = built
        self._order = order

    def match(self, text: bytes) -> list[int]:
        return [self._order[index] for index in self._built.Match(text) or ()]


def _add(built: re2.Set, text: str) -> bool:
    """RE2 has no look-around: without it the expression finds more, which `confirm` sorts out. An anchor at
    the beginning goes as well, since prefixes of launchers come before it. False: RE2 cannot have it at all.
    """
    loose = _LOOK.sub("", text)
    loose = loose[1:] if loose.startswith("^") else loose
    try:
        built.Add(b"(?m)" + loose.encode())
    except re2.error:
        return False
    return True
