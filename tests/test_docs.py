"""The docs name what there is."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.sweep.report import contents

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What a link may name of a page, as GitHub has it."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_file_is_in_the_tree_of_the_architecture_page() -> None:
    tree = (ROOT / "docs" / "architecture.md").read_text().split("```")[1]
    paths: set[str] = set()
    folders = {2: ""}  # by the indent of what is in them
    for line in tree.splitlines():
        indent, words = len(line) - len(line.lstrip()), line.split()
        if indent >= 2:
            paths |= {folders[indent] + word for word in words if re.fullmatch(r"\w+\.py", word)}
            if words[0].endswith("/"):
                folders[indent + 2] = folders[indent] + words[0]
    package = ROOT / "popgpt"
    files = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if path.name != "__init__.py"}
    assert paths == files


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if not target.startswith(("http://", "https://")):
            name, _, anchor = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


def test_every_page_is_linked_from_the_readme() -> None:
    links = set(re.findall(r"\]\((docs/[\w-]+\.md)", (ROOT / "README.md").read_text()))
    assert links == {page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").glob("*.md")}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) < 7000


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_lines_of_prose_fit(page: Path) -> None:
    long = [line for line in prose(page).splitlines() if len(line) > 120 and not line.startswith("|")]
    assert long == []


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_modules_and_files_that_pages_name_are_there(page: Path) -> None:
    text = page.read_text()
    for name in set(re.findall(r"\b((?:popgpt|benchmarks)(?:\.[a-z_]+)+)\b(?!\[)", text)) - {"popgpt.token"}:
        assert name == "popgpt.tasks" or importlib.util.find_spec(name), name
    for name in set(re.findall(r"`((?:tests|docs|configs|search_spaces|benchmarks)/[\w/.-]+\.\w+)`", prose(page))):
        assert (ROOT / name).exists(), name


def test_names_of_the_architecture_page_are_in_the_code() -> None:
    page = prose(ROOT / "docs" / "architecture.md")
    code = "\n".join(path.read_text() for folder in ("popgpt", "tests") for path in (ROOT / folder).rglob("*.py"))
    words = set(re.findall(r"\w+", code)) | {path.name for path in ROOT.rglob("*.py") if ".venv" not in path.parts}
    unknown = set()
    for name in re.findall(r"`([A-Za-z_][\w./]*)`", page):
        parts = [name.rsplit("/", 1)[-1]] if name.endswith(".py") else name.strip("/").replace("/", ".").split(".")
        unknown |= {part for part in parts if part not in words}
    assert unknown == set()


def test_the_picture_is_drawn_from_a_finished_sweep() -> None:
    spec = importlib.util.spec_from_file_location("picture", ROOT / "docs" / "picture.py")
    assert spec is not None
    assert spec.loader is not None
    picture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(picture)
    content = contents.sweep(
        contents.trial("0000", {"learning_rate": 0.005}, contents.row(10, 0.125), contents.row(100, 0.875))
    )
    content.best.update(run_dir="/s/best", test=contents.TEST)
    check_picture(ElementTree.fromstring(picture.picture(content)))


def test_the_shipped_picture_is_of_a_finished_sweep() -> None:
    check_picture(ElementTree.parse(ROOT / "docs" / "sweep.svg").getroot())


def check_picture(svg: ElementTree.Element) -> None:
    lead = svg.find(".//{*}text[@class='lead']")
    assert lead is not None
    assert "% of the test split exactly" in (lead.text or "")
    assert svg.find(".//{*}polyline[@class='curve winner']") is not None
