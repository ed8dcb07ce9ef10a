"""Tasks by name: those of this package, and those of others that have an entry point in the group `popgpt.tasks`.

A task of this package is a module of this folder that is named as the task. A task of another package is a class that
its metadata names: `[project.entry-points."popgpt.tasks"]`, `NAME = "package.module:Class"`.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic.fields import FieldInfo

import popgpt.tasks
from popgpt.tasks.base import Task
from popgpt.text.errors import UserError, shortened

GROUP = "popgpt.tasks"
DEFAULT_TASK = "calculator"
_NO_TASKS = {"base", "numbered", "registry", "views"}
OUR_TASKS = tuple(sorted({module.name for module in pkgutil.iter_modules(popgpt.tasks.__path__)} - _NO_TASKS))


def task_names() -> list[str]:
    """Every task that can be named, those of this package first."""
    return [*OUR_TASKS, *sorted({point.name for point in _foreign()} - set(OUR_TASKS))]


def find_task(name: str) -> type[Task]:
    """The task of this name. Raises UserError where there is none, or another package's cannot be loaded."""
    if name in OUR_TASKS:
        module = importlib.import_module(f"{popgpt.tasks.__name__}.{name}")
        return next(found for found in vars(module).values() if _is_task(found, name))
    for point in _foreign():
        if point.name == name:
            return _load(point)
    known = task_names()
    close = difflib.get_close_matches(name[:80], known, n=1, cutoff=0.6)
    meant = f"did you mean {close[0]}?" if close else f"the tasks are {', '.join(known)}"
    raise UserError(f"task.name={shortened(name)} is no task; {meant}")


def make_task(value: Any) -> Task:
    """The task that a config's `task` says: a name, or {name: ..., option: value}. Raises ValueError."""
    if isinstance(value, Task):
        return value
    given = {"name": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping) or not isinstance(given.get("name", DEFAULT_TASK), str):
        raise ValueError(f"task={shortened(value)} should be a name or a mapping, {{name: ..., option: value}}")
    try:
        task = find_task(given.get("name", DEFAULT_TASK))
    except UserError as error:
        raise ValueError(str(error)) from None
    return task.model_validate(dict(given))


def task_name(value: Any) -> str:
    """The name of the task that a config's `task` says; the default's where it says none, or nothing that can be."""
    if isinstance(value, Task):
        return value.name
    name = value.get("name") if isinstance(value, Mapping) else value
    return name if isinstance(name, str) else DEFAULT_TASK


def task_fields(value: Any) -> dict[str, FieldInfo]:
    """The options of the task that a config's `task` says, its name among them; none where there is no such task."""
    try:
        return find_task(task_name(value)).model_fields
    except UserError:
        return {}


def _foreign() -> list[EntryPoint]:
    return list(entry_points(group=GROUP))


def _is_task(found: object, name: str) -> bool:
    return isinstance(found, type) and issubclass(found, Task) and found.model_fields["name"].default == name


def _load(point: EntryPoint) -> type[Task]:
    """Another package's task. Raises UserError where what the entry point names is none."""
    package = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
    where = f"task.name={shortened(point.name)}: {point.value}{package}"
    try:
        found = point.load()
    except Exception as error:  # whatever another package's import raises
        said = " ".join(str(error).split())
        raise UserError(f"{where} cannot be loaded: {type(error).__name__}: {said}"[:400]) from error
    if not _is_task(found, point.name):
        raise UserError(f"{where} is no popgpt.tasks.base.Task whose name is {point.name!r} by default")
    return found
