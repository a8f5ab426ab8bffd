"""A draft of an entry, from the logs of a failure that no entry describes. A person completes it."""

import re
from collections import Counter
from collections.abc import Iterable

import msgspec

from isthmus.faults.catalogue import pattern
from isthmus.faults.catalogue.find import LEAST_SPECIFIC, Signatures
from isthmus.faults.terms import FaultClass

MAX_LINE = 2000
MAX_TITLE = 90
MAX_SIGNATURE = 160
MAX_TESTS = 3

_ERROR = re.compile(
    r"(?i)\b\w*(?:error|exception)\b|\b(?:fatal|failed|failure|panic|abort(?:ed)?|assert\w*|corrupt\w*|killed"
    r"|cannot|can't|unable|timed? ?out|refused|mismatch|invalid|denied|lost|segfault|overflow)\b"
)
_STRONG = re.compile(r"\b[A-Za-z_.]*(?:Error|Exception)\b: |\bFATAL\b|\bFatal\b|\bpanic\b|\bERROR\b")
_WEAK = re.compile(
    r"Traceback \(most recent call last\)|^\s*File \"|ChildFailedError|^\s*raise |\bINFO\b|exitcode"
)
_PREFIX = re.compile(
    r"^(?:\s*(?:"
    r"\[(?:rank|default)?\d+\]:?|\d+:"  # the rank, as torchrun and srun write it
    r"|\([^)]{0,60}pid=\d+[^)]{0,40}\)"  # Ray
    r"|\[?\d{4}-\d\d-\d\d[ T_-]\d\d:\d\d:\d\d[\d.,:+Z]*\]?|\[\s*\d+\.\d+\]"
    r"|[A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d \S+ \w+(?:\[\d+\])?:|kern +:\w+ +:"  # syslog, dmesg
    r"|\[[A-Z][a-z]{2} [A-Z\d][^\]]{9,22}\]|\[tid \d+\]"
    r"|\[?[IWEF]\d{3,4} \d\d:\d\d:\d\d\.\d+(?: \d+)?(?: \S+:\d+\])?|\[[IWEF] \S+:\d+\]"  # glog
    r"|\[(?:PG [^\]]{1,60}|Rank \d+)\]"
    r"|\[?(?:DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|EVENT)\]?:?(?=\s)"
    r"|[A-Z]+\(\d+,[^)]{1,40}\):|\[[\w./-]+\.\w+:\d+\]"  # CANN: module, process, place
    r"))+\s*"
)
_RANK = re.compile(r"\[(?:rank|default)(\d+)\]|\b[Rr]ank[ :=]*(\d+)\b")

_CHANGING = (
    ("uuid", r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", r"[0-9a-f-]{36}"),
    ("time", r"\d{4}-\d\d-\d\d[ T_-]\d\d:\d\d:\d\d[\d.,]*Z?", r"\d{4}-\d\d-\d\d.\d\d:\d\d:\d\d[\d.,]*Z?"),
    ("url", r"https?://[^\s'\"]+", r"https?://\S+"),
    ("ip", r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?", r"\d+\.\d+\.\d+\.\d+(?::\d+)?"),
    ("path", r"(?<![\w/])(?:~|\.{1,2})?/[\w.@+-]+(?:/[\w.@+-]*)+", r"\S+"),
    ("pci", r"\b[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}(?:\.\d)?\b", r"[0-9a-f:.]+"),
    ("hex", r"\b0x[0-9a-fA-F]+\b", r"0x[0-9a-fA-F]+"),
    ("hash", r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8,}\b", r"[0-9a-f]+"),
    ("name", r"\b(?:[A-Z]{1,4}\d{4,}|[A-Za-z]+\d{1,2}[A-Za-z_]+)", ""),
    ("number", r"-?\d+(?:[.,]\d+)*(?:e[+-]?\d+)?", r"[-+\d.,e]+"),
)  # fmt: skip
"""What differs from one time to the next: (kind, how it is found, what stands for it in a signature).

Names such as P2P and codes such as E30008 stay as they are.
"""
_TOKEN = re.compile("|".join(f"(?P<{name}>{found})" for name, found, _ in _CHANGING))
_CLASS_OF = {name: made for name, _, made in _CHANGING}

_CLASS_WORDS: tuple[tuple[FaultClass, str], ...] = (
    ("nan", r"\bnan\b|\binf\b|not finite|overflow"),
    ("oom_shm", r"shared memory|/dev/shm"),
    ("oom_device", r"out of memory.*(?:gpu|npu|device)|(?:cuda|hip|npu|device).*out of memory"),
    ("oom_host", r"out of memory|cannot allocate memory|oom"),
    ("ecc", r"\becc\b|uncorrectable|double bit"),
    ("disk_full", r"no space left|quota"),
    ("permission", r"permission|denied|not permitted|unauthori[sz]ed|forbidden"),
    ("ckpt_corrupt", r"checkpoint.*(?:corrupt|truncated|damaged|checksum)|corrupt.*checkpoint"),
    ("ckpt_mismatch", r"state_dict|checkpoint.*mismatch"),
    ("data_corrupt", r"corrupt|truncated|decode|malformed|checksum"),
    ("dataloader", r"dataloader|data loader|dataset"),
    ("version_mismatch", r"undefined symbol|version|incompatible|no module named"),
    ("rendezvous", r"rendezvous|tcpstore|store timeout"),
    ("hang", r"timed? ?out|watchdog|stuck|hang"),
    ("network", r"connection|socket|unreachable|refused|network|link down"),
    ("comm_error", r"nccl|rccl|hccl|gloo|collective"),
    ("device_fault", r"cuda error|hip error|device|kernel launch|illegal"),
    ("crash", r"segmentation|segfault|core dumped|aborted|signal \d+|killed"),
    ("config", r"config|argument|option|invalid value|must be"),
)


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """What could be read off the logs."""

    id: str
    title: str
    kind: FaultClass
    signature: str
    tests: list[str]
    times: int
    """How many lines of the logs it hits."""


def draft(lines: Iterable[str], known: Signatures, rank: int | None = None) -> Draft | None:
    """An entry for the most telling line that looks like an error and that no entry hits; None without one.

    `rank`: only lines that name this rank, or none.
    """
    unknown = [
        line
        for line in (raw.rstrip("\n")[:MAX_LINE] for raw in lines)
        if _ERROR.search(line) and _concerns(line, rank) and not _explained(line, known)
    ]
    shapes = [generalise(line) for line in unknown]
    times = Counter(shapes)
    sound = [at for at, shape in enumerate(shapes) if pattern.problem(shape) is None]
    if not sound:
        return None
    best = max(sound, key=lambda at: (_telling(unknown[at]), -at))
    message = _message(unknown[best])
    alike = [unknown[at] for at in sound if shapes[at] == shapes[best]]
    return Draft(
        id=_id(message),
        title=message[:MAX_TITLE].strip(),
        kind=guess_class(message),
        signature=shapes[best],
        tests=list(dict.fromkeys(alike))[:MAX_TESTS],
        times=times[shapes[best]],
    )


def generalise(line: str) -> str:
    """A regular expression for its message: numbers, addresses, paths, times and ids may be any."""
    message = _message(line)
    parts, at = [], 0
    for found in _TOKEN.finditer(message):
        parts += [_literal(message[at : found.start()]), _CLASS_OF[found.lastgroup or ""] or found[0]]
        at = found.end()
        if sum(map(len, parts)) > MAX_SIGNATURE:
            return "".join(parts)
    return "".join([*parts, _literal(message[at:][:MAX_SIGNATURE])])


def guess_class(message: str) -> FaultClass:
    """By its words; a bug of the program where they say nothing."""
    lower = message.lower()
    for kind, words in _CLASS_WORDS:
        if re.search(words, lower):
            return kind
    return "user_code"


def to_yaml(found: Draft) -> str:
    """The draft as a file of the catalogue, with comments where a person must write."""
    tests = "\n".join(f"      - {_quoted(line)}" for line in found.tests)
    return f"""\
# Drafted from a log: {found.times} of its lines look like this and hit no entry of the catalogue.
# Complete it, then load it with `isthmus faults list --catalogue DIR`. Without cause, verify and sources it
# is refused.
entries:
  - id: {found.id}
    # One line: what happened.
    title: {_quoted(found.title)}
    # Guessed from the words of the message. Is it this?
    class: {found.kind}
    # nvidia, amd, ascend, ...; any where it is not of a chip.
    chips: [any]
    # Does it hit this fault on any rank, and nothing else?
    signature:
      - {_quoted(found.signature)}
    # Why it happens, in your own words.
    cause: ''
    # true where it is seen on ranks that only suffer from another one's fault.
    victim: false
    # rank, node, group, site or job.
    blast_radius: rank
    # What the system may do alone: nothing, until you know.
    action: alert_human
    # A command or a figure that shows that the action worked.
    verify: ''
    # Documents or issues that it rests on.
    sources: []
    tests:
{tests}
"""


def _explained(line: str, known: Signatures) -> bool:
    return any(entry.id not in LEAST_SPECIFIC for entry in known.hits(line))


def _concerns(line: str, rank: int | None) -> bool:
    named = {int(number) for pair in _RANK.findall(line) for number in pair if number}
    return rank is None or not named or rank in named


def _telling(line: str) -> float:
    return 2.0 * bool(_STRONG.search(line)) + bool(_ERROR.search(line)) - 3.0 * bool(_WEAK.search(line))


def _message(line: str) -> str:
    return _PREFIX.sub("", line).strip()


def _literal(text: str) -> str:
    return re.sub(r"\\([ #&~!%\"'<>=@,:;/-])", r"\1", re.escape(text))


def _id(message: str) -> str:
    words = [word.upper() for word in re.findall(r"[A-Za-z][A-Za-z0-9]*", message) if len(word) > 2]
    return "-".join(["NEW", *words[:3]])


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''").replace("\t", " ") + "'"
