"""The house's import rule: downwards only, and heavy libraries only where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "popgpt"
FLOORS = [
    {"text", "config", "files", "stores", "metrics", "data"},
    {"model", "sweep", "tracking"},
    {"training"},
    {"cluster"},
    {"cli", "progress", "prepare", "train", "tune", "evaluate", "sample", "explain", "track", "report", "mirror"},
]
ONLY_IN = {
    "ray": {"cluster", "train", "tune", "sweep.asha"},
    "mlflow": {"tracking", "export"},
    "wandb": {"tracking", "export"},
    "torch.distributed": {"training.board", "training.world"},
    "yaml": {"config", "sweep.space"},
    "sklearn": {"sweep.report.importance"},
    "optuna": {"sweep.search"},
}


def imports() -> Iterator[tuple[str, str]]:
    """(module, imported module) pairs, wherever in a file the import stands."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((module, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module}: imports are absolute"
                yield from ((module, f"{node.module}.{alias.name}") for alias in node.names)


def floor(module: str) -> int:
    top = module.removeprefix("popgpt.").split(".")[0]
    floors = [height for height, rooms in enumerate(FLOORS) if top in rooms]
    assert floors, f"{module} has no floor: say in FLOORS where it belongs"
    return floors[0]


def test_imports_run_downwards_only() -> None:
    inside = [(module, name) for module, name in imports() if name.startswith("popgpt.") and module != "__init__"]
    assert len(inside) > 30
    upwards = [pair for pair in inside if floor(pair[0]) < floor(pair[1])]
    assert upwards == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_heavy_libraries_stay_where_they_belong(library: str) -> None:
    users = {module for module, name in imports() if f"{name}.".startswith(f"{library}.")}
    stray = {user for user in users if not any(f"{user}.".startswith(f"{room}.") for room in ONLY_IN[library])}
    assert stray == set()


@pytest.mark.parametrize("entry", ["train", "tune", "prepare", "evaluate", "sample", "explain", "track", "report"])
def test_help_imports_nothing_heavy(entry: str) -> None:
    code = (
        "import sys; sys.argv = ['x', '--help']\n"
        "import runpy\n"
        f"try: runpy.run_module('popgpt.{entry}', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'ray', 'mlflow', 'wandb', 'matplotlib', 'sklearn', 'pandas', 'optuna'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
