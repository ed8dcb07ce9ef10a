"""The docs name what there is."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


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
