"""Pages are complete, linked from each other without broken links, and speak of no machine in particular."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_MACHINE = re.compile(r"(?<![\w.])/(?:work|root|home|tmp)/\w")


def _anchor(heading: str) -> str:
    """As GitHub makes it: lower case, punctuation dropped, spaces to hyphens."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _links(page: Path) -> list[str]:
    return _LINK.findall(_FENCE.sub("", page.read_text()))


def test_every_link_leads_somewhere(pages: list[Path]):
    broken = []
    for page in pages:
        for link in _links(page):
            if "://" in link:
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            anchors = (
                map(_anchor, _HEADING.findall(target.read_text())) if anchor and target.is_file() else ()
            )
            if not target.exists() or (anchor and anchor not in anchors):
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert not broken


def test_every_page_can_be_reached_from_the_readme(pages: list[Path]):
    reached, ahead = set[Path](), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in reached:
            continue
        reached.add(page)
        targets = [(page.parent / link.partition("#")[0]).resolve() for link in _links(page)]
        ahead += [target for target in targets if target.suffix == ".md" and target.exists()]
        ahead += [page for target in targets if target.is_dir() for page in target.glob("*.md")]
    assert [str(page.relative_to(ROOT)) for page in pages if page not in reached] == []


def test_pages_and_examples_name_no_machine_of_ours(pages: list[Path]):
    programs = [path for path in (ROOT / "examples").rglob("*") if path.suffix in (".py", ".yaml")]
    assert [str(path) for path in (*pages, *programs) if _MACHINE.search(path.read_text())] == []


def test_what_is_not_python_is_packaged():
    """The wheel takes from src only what pyproject.toml names by its ending."""
    listed = subprocess.run(["git", "ls-files", "src"], cwd=ROOT, capture_output=True, text=True, check=True)
    endings = {Path(name).suffix for name in listed.stdout.split()}
    assert endings <= {".py", ".c", ".yaml", ".json", ".html", ".css", ".js"}
