"""Launch scripts are read without being run."""

import pytest

from isthmus.errors import InputError
from isthmus.planner.formats.shell import holds, read_words


def words(script: str) -> list[str]:
    return read_words(f"{script}\nrun --num-layers 1\n")[:-3]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("A=4\nrun --a $A ${A} ${B:-7} ${C:-'x y'}", ["run", "--a", "4", "4", "7", "x", "y"]),
        ("A=(1 # one\n 2\n)\nA+=(3)\nrun ${A[@]}", ["run", "1", "2", "3"]),
        ('A=("--x 1" "--y")\nrun ${A[@]}', ["run", "--x", "1", "--y"]),
        ('B=(\n --x 1\n --y\n)\nA=("${B[@]}")\nrun ${A[@]}', ["run", "--x", "1", "--y"]),
        ("A=2; B=$((A * 3 + $A)); run $B", ["run", "8"]),
        ("run a \\\n  b # c\n# d", ["run", "a", "b"]),
        ("run \"a # b\" '$A'", ["run", "a # b", ""]),
        ("if [ 1 -gt 2 ]; then\n run a\nelse\n run b\nfi", ["run", "b"]),
        ("if false; then\n if [ 1 == 1 ]; then\n run a\n fi\nfi\nrun b", ["run", "b"]),
        ("for x in 1 2; do\n run a\ndone\nrun b", ["run", "b"]),
        ("f() {\n run a\n}\nrun b", ["run", "b"]),
        ("case $1 in\n a) run a ;;\n *) run b ;;\nesac\nrun c", ["run", "c"]),
        ("ENVIRONMENT=1 run a", ["run", "a"]),
        ("export A=1\nrun $A", ["run", "1"]),
    ],
)
def test_commands_are_expanded(script: str, expected: list[str]):
    assert [word for word in words(script) if word not in ("then", "do")] == expected


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ('[ "a" == "a" ]', True),
        ('[[ "a" != "a" ]]', False),
        ('[[ -z "" ]] && [[ -n "b" ]]', True),
        ('[[ "a" == "b" ]] || [ 3 -ge 3 ]', True),
        ("[ -f file ]", False),
        ("[ x -gt 1 ]", False),
    ],
)
def test_simple_tests_are_decided(condition: str, expected: bool):
    assert holds(condition) is expected


def test_variables_that_double_are_bounded():
    doubling = "A=aaaaaaaaaa\n" + "A=$A$A\n" * 40
    with pytest.raises(InputError, match="characters"):
        read_words(doubling)


@pytest.mark.parametrize("text", ["A=$((1/0))", "A=$((2**9**9))", "A=(", "'", "fi", "done", "${", "$(("])
def test_broken_scripts_do_no_harm(text: str):
    assert read_words(f"{text}\n") is not None
