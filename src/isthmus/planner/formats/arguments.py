"""Options of a command line by name, from a script, an argument list or YAML."""

import math

import yaml

from isthmus.errors import InputError
from isthmus.planner.formats.shell import MAX_TEXT, read_words


class Arguments:
    """Options by name, the last one counting, as in argparse."""

    def __init__(self, words: list[str]) -> None:
        self.options: dict[str, list[str]] = {}
        name = ""
        for word in words:
            if word.startswith("--") and len(word) > 2:
                name, equals, value = word.partition("=")
                name = name.replace("_", "-")
                self.options[name] = [value] if equals else []
            elif name:
                self.options[name].append(word)

    def has(self, *names: str) -> bool:
        return any(name in self.options for name in names)

    def text(self, name: str, default: str = "") -> str:
        """Raises InputError where the option is there, but not its value."""
        if name not in self.options:
            return default
        if not self.options[name] or not self.options[name][0]:
            raise InputError(
                "it has no value", where=name, hint="is a variable of the script set elsewhere? set it here"
            )
        return self.options[name][0]

    def number(self, name: str, default: int | None = None) -> int:
        """Raises InputError where it is needed but missing, or no whole number of at least 1."""
        if name not in self.options and default is not None:
            return default
        if name not in self.options:
            raise InputError("the arguments lack it", where=name, hint=f"add {name} N")
        value = self.real(name, 0.0)
        if value < 1 or value != int(value) or value > 1e9:
            raise InputError(f"'{self.text(name)}' is not a whole number of at least 1", where=name)
        return int(value)

    def real(self, name: str, default: float) -> float:
        try:
            value = float(self.text(name, str(default)))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"'{self.text(name)}' is not a number", where=name)
        return value


def read_arguments(text: str) -> Arguments:
    """Raises InputError for a script that is too large."""
    return Arguments(_mapping_words(text) or read_words(text))


def _mapping_words(text: str) -> list[str]:
    """Of YAML, nested or not, with or without hyphens: its leaves as options. Empty: it is no mapping."""
    if len(text) > MAX_TEXT or ("*" in text and "&" in text):
        return []
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return []
    words: list[str] = []
    ahead = [tree] if isinstance(tree, dict) else []
    while ahead:
        for key, value in ahead.pop().items():
            name = f"--{str(key).lstrip('-').replace('_', '-')}"
            if isinstance(value, dict):
                ahead.append(value)
            elif isinstance(value, list):
                words += [name, ",".join(map(str, value))]
            elif value is True:
                words.append(name)
            elif value is not None and value is not False:
                words += [name, str(value)]
    return words if "--num-layers" in words else []
