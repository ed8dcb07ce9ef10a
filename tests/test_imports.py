"""The house's import rule: downwards only, and heavy libraries only where they belong."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "popgpt"
FLOORS = [
    {"text"},
    {"storage", "lines", "metrics"},
    {"tasks"},
    {"config"},
    {"terminal"},
    {"data"},
    {"model", "tracking"},
    {"training"},
    {"cluster"},
    {"sweep"},
    {"init", "prepare", "train", "tune", "evaluate", "certify", "sample", "explain", "track", "report", "__main__"},
]
ONLY_IN = {
    "ray": {"cluster", "train", "tune", "sweep.asha", "sweep.trials", "sweep.trial_process"},
    "mlflow": {"tracking", "export"},
    "wandb": {"tracking", "export"},
    "torch.distributed": {"training.shared_memory", "training.world"},
    "yaml": {"config.yaml12"},
    "sklearn": {"sweep.report.importance"},
    "optuna": {"sweep.search"},
}


def imports() -> Iterator[tuple[str, str]]:
    """(module, imported module) pairs, wherever in a file the import stands; what runs as a program is `__main__`."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        for statement in ast.parse(path.read_text()).body:
            module = "__main__" if is_program(statement) else name
            for node in ast.walk(statement):
                if isinstance(node, ast.Import):
                    yield from ((module, alias.name) for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    assert node.level == 0, f"{name}: imports are absolute"
                    yield from ((module, f"{node.module}.{alias.name}") for alias in node.names)


def is_program(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test) == "__name__ == '__main__'"


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


def test_no_folders_import_each_other() -> None:
    """Nor in a circle; an import within a function counts as any other."""
    users: dict[str, set[str]] = {}
    for module, name in imports():
        user, used = module.split(".")[0], name.removeprefix("popgpt.").split(".")[0]
        if name.startswith("popgpt.") and user != used:
            users.setdefault(user, set()).add(used)
    TopologicalSorter(users).prepare()  # raises CycleError, which names the circle


def test_every_program_ends_as_all_do() -> None:
    """By program.run, which says in a line what ended it, and nothing where nobody reads its output any more."""
    files = [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "benchmarks").glob("*.py")]
    trees = {path.stem: ast.parse(path.read_text()) for path in files}
    ends = {name: ast.unparse(tree.body[-1]) for name, tree in trees.items() if any(map(is_program, tree.body))}
    assert {"train", "dates", "startup"} <= ends.keys()
    assert [name for name, end in ends.items() if not re.search(r"\n {4}(program\.)?run\(.*\)$", end)] == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_heavy_libraries_stay_where_they_belong(library: str) -> None:
    users = {module for module, name in imports() if f"{name}.".startswith(f"{library}.")}
    stray = {user for user in users if not any(f"{user}.".startswith(f"{room}.") for room in ONLY_IN[library])}
    assert stray == set()


@pytest.mark.parametrize(
    "entry", ["train", "tune", "init", "prepare", "evaluate", "certify", "sample", "explain", "track", "report"]
)
def test_help_imports_nothing_heavy(entry: str) -> None:
    code = (
        "import os, runpy, sys; sys.argv = ['x', '--help']\n"
        "class Ended(BaseException): pass\n"
        "def end(code): raise Ended(code)\n"
        "os._exit = end  # by which a command ends, without a look at what it imported\n"
        f"try: runpy.run_module('popgpt.{entry}', run_name='__main__')\n"
        "except Ended as ended: assert ended.args == (0,), ended.args\n"
        "heavy = {'torch', 'ray', 'mlflow', 'wandb', 'matplotlib', 'sklearn', 'pandas', 'optuna'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "print('nothing heavy')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("nothing heavy\n"), done.stderr
