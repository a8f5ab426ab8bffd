"""`python -m isthmus_bench.planner.fit ROWS.csv`: fits the belief that is shipped with the package."""

import sys
from importlib.resources import files
from pathlib import Path

from isthmus.planner.belief.file import FILE, encode
from isthmus.planner.published.fit import fit
from isthmus.planner.published.rows import read_rows


def main(arguments: list[str]) -> int:
    if len(arguments) not in (1, 2):
        print("usage: python -m isthmus_bench.planner.fit ROWS.csv [OUT.json]", file=sys.stderr)
        return 2
    target = Path(arguments[1]) if len(arguments) == 2 else _shipped()
    belief = fit(read_rows(arguments[0]), "python -m isthmus_bench.planner.fit ROWS.csv")
    target.write_bytes(encode(belief))
    print(f"{belief.rests_on}; {target.stat().st_size} bytes written to {target}")
    return 0


def _shipped() -> Path:
    return Path(str(files("isthmus.planner.belief").joinpath(FILE)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
