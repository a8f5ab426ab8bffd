"""Just enough of the shell to read launch scripts: variables, arrays, simple tests. Nothing is run.

Loops, case blocks and functions are passed over; a test that is not understood counts as false.
"""

import ast
import re
import shlex
from collections.abc import Iterator

from isthmus.errors import InputError

MAX_TEXT = 200_000
"""Characters of a script, and of any value in it."""

_ASSIGN = re.compile(
    r"(?:(?:export|local|readonly|declare(?: -\w+)*)\s+)?([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL
)
_NAME = re.compile(
    r"\$\(\((?P<sum>[^()]*)\)\)"
    r"|\$\{(?P<braced>\w+)(?:\[[@*]\])?(?::?[-=](?P<default>[^{}]*))?\}"
    r"|\$(?P<bare>[A-Za-z_]\w*|\d)"
)
_OPENS = re.compile(r"(while|until|for|select|case)\b|(function\s+)?\w+\s*\(\)")
_CLOSES = re.compile(r"(done|esac|\})(\s|$)")


def read_words(text: str) -> list[str]:
    """Words of all commands, expanded. Where no command has options: those of all variables.

    Raises InputError for a script that is too large.
    """
    _bounded(text)
    script = _Script()
    for statement in _statements(text):
        script.take(statement)
    if any(word.startswith("--num-layers") for word in script.words):
        return script.words
    return [word for value in script.variables.values() for word in _split(value)] + script.words


class _Script:
    """Variables so far, words of the commands so far, and whether the present block counts."""

    def __init__(self) -> None:
        self.variables: dict[str, str] = {}
        self.words: list[str] = []
        self.blocks: list[tuple[bool, bool]] = []
        """(counts now, some branch has counted)"""
        self.skipping = 0

    def take(self, statement: str) -> None:
        statement = re.sub(r"^((then|do|else)\s+)+(?=\S)", "", _branch(self, statement)).strip()
        if self._passes_over(statement) or not statement or not all(on for on, _ in self.blocks):
            return
        match = _ASSIGN.fullmatch(statement)
        if match is None:
            self.words += _split(self.expand(statement))
            return
        name, adds, raw = match.groups()
        value = self.expand(raw.strip())
        if raw.startswith("("):
            value = value.strip().removeprefix("(").removesuffix(")")
        elif len(parts := _split(value, again=False)) > 1:
            self.words += parts[1:]
            return
        else:
            value = parts[0] if parts else ""
        self.variables[name] = _bounded(f"{self.variables.get(name, '')} {value}" if adds else value)

    def _passes_over(self, statement: str) -> bool:
        if _OPENS.match(statement):
            self.skipping += 1
        elif self.skipping and _CLOSES.match(statement):
            self.skipping -= 1
            return True
        return self.skipping > 0

    def expand(self, text: str) -> str:
        if text.startswith("'"):
            return text
        for _ in range(4):
            before, text = text, _bounded(_NAME.sub(self._value, text))
            if text == before:
                break
        return text

    def _value(self, match: re.Match[str]) -> str:
        if (formula := match["sum"]) is not None:
            return _arithmetic(re.sub(r"[A-Za-z_]\w*", self._number, formula.replace("$", "")))
        value = self.variables.get(match["braced"] or match["bare"], "")
        return value or (match["default"] or "").strip("\"'")

    def _number(self, match: re.Match[str]) -> str:
        return self.variables.get(match[0], "0")


def _branch(script: _Script, statement: str) -> str:
    """Keep the stack of if-blocks; what of the statement is left to do."""
    word, _, rest = statement.partition(" ")
    counts = all(on for on, _ in script.blocks[:-1]) and not script.skipping
    if word == "if" and not script.skipping:
        on = all(each for each, _ in script.blocks) and holds(script.expand(rest))
        script.blocks.append((on, on))
    elif word == "elif" and script.blocks and not script.skipping:
        on = counts and not script.blocks[-1][1] and holds(script.expand(rest))
        script.blocks[-1] = (on, on or script.blocks[-1][1])
    elif word == "else" and script.blocks and not script.skipping:
        script.blocks[-1] = (not script.blocks[-1][1], True)
        return rest
    elif word == "fi" and script.blocks and not script.skipping:
        script.blocks.pop()
    else:
        return statement
    return ""


def holds(condition: str) -> bool:
    """Of `[ a == b ]`, `[[ -n "a" ]] || [[ ... ]]`, `[ 2 -gt 1 ]`. What else there is: false."""
    parts = re.split(r"(&&|\|\|)", condition)
    result = _test(parts[0])
    for joint, part in zip(parts[1::2], parts[2::2], strict=True):
        result = result and _test(part) if joint == "&&" else result or _test(part)
    return result


def _test(text: str) -> bool:
    words = [word for word in _split(text, again=False) if word not in ("[", "[[", "]", "]]", "then")]
    match words:
        case [left, "==" | "=", right]:
            return left == right
        case [left, "!=", right]:
            return left != right
        case ["-n"] | ["-z", _]:
            return words == ["-z", ""]
        case ["-z"] | ["-n", _]:
            return words != ["-n", ""]
        case [left, "-eq" | "-ne" | "-gt" | "-ge" | "-lt" | "-le" as sign, right]:
            return _compare(left, sign, right)
    return False


def _compare(left: str, sign: str, right: str) -> bool:
    try:
        difference = int(left) - int(right)
    except ValueError:
        return False
    return {
        "-eq": difference == 0,
        "-ne": difference != 0,
        "-gt": difference > 0,
        "-ge": difference >= 0,
        "-lt": difference < 0,
        "-le": difference <= 0,
    }[sign]


def _arithmetic(formula: str) -> str:
    """Whole numbers with + - * / %; anything else is an empty value."""
    try:
        return str(_evaluate(ast.parse(formula.strip(), mode="eval").body))
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        return ""


def _evaluate(node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _evaluate(left), _evaluate(right)
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div() | ast.FloorDiv():
                    return a // b
                case ast.Mod():
                    return a % b
    raise ValueError("not arithmetic")


def _statements(text: str) -> Iterator[str]:
    """Cut at line ends and semicolons outside quotes and parentheses; comments and continuations go."""
    text = text.replace("\r\n", "\n").replace("\\\n", " ")
    quote, depth, start, index, parts = "", 0, 0, 0, []
    while index < len(text):
        char = text[index]
        if quote:
            quote = "" if char == quote else quote
        elif char == "\\":
            index += 1
        elif char in "\"'":
            quote = char
        elif char == "#" and (index == 0 or text[index - 1].isspace()):
            parts.append(text[start:index])
            index = text.find("\n", index) if "\n" in text[index:] else len(text)
            start = index
            continue
        elif char in "()":
            depth = max(0, depth + (1 if char == "(" else -1))
        elif char in "\n;" and not depth:
            yield "".join([*parts, text[start:index]]).strip()
            parts, start = [], index + 1
        index += 1
    yield "".join([*parts, text[start:]]).strip()


def _split(text: str, *, again: bool = True) -> list[str]:
    """Words; with `again`, quoted ones that hold an option with its value are cut once more."""
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    if not again:
        return words
    return [part for word in words for part in (word.split() if word.lstrip().startswith("--") else [word])]


def _bounded(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise InputError(f"more than {MAX_TEXT:,} characters", hint="give the configuration, not a log")
    return text
