"""Write docs/parameters.md from the schemas: `make docs`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from popgpt.config import GROUPS, Role, as_yaml, role_of
from popgpt.config.schema import DataOptions
from popgpt.sweep.schema import SweepFile
from popgpt.tasks.base import Task
from popgpt.tasks.registry import OUR_TASKS, find_task

PAGE = Path(__file__).with_suffix(".md")
TYPES = {
    **{"integer": "integer", "number": "number", "string": "text", "boolean": "`true` or `false`", "null": "`null`"},
    **{"object": "mapping", "array": "list"},
}
BOUNDS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
INTRODUCTION = """\
# Parameters

`make docs` writes this page from the schemas, [popgpt/config/schema.py](../popgpt/config/schema.py) and
[popgpt/sweep/schema.py](../popgpt/sweep/schema.py).

Each parameter is a key of a [config](train.md#the-config-file), and a `key=value` word on the command line, which
replaces the file's value. [What the parameters mean exactly](semantics.md) says more where a line is not enough.

A sweep may vary the parameters that say *yes* under *swept*. Of the others,
"""
ROLES = {
    Role.PLACE: "says where a run takes place and is recorded, which changes nothing of its result",
    Role.DATA: "decides what the dataset holds, which all trials share",
    Role.RUN: "says where a run begins, and what is compared and kept of it",
}
SWEEP = """\
## A search-space file

The keys of a search-space file, each of them a `key=value` word too. The command line may also give any parameter of
the base config, as `config.seed` where the file has a key of that name.
"""


def page() -> str:
    """Return the whole page."""
    roles = "\n".join(f"- *{role.name.lower()}* {meaning}." for role, meaning in ROLES.items())
    groups = [f"## {name_of(group)}\n\n{group.__doc__}\n\n{table(group, swept=True)}" for group in GROUPS]
    groups.insert(GROUPS.index(DataOptions) + 1, task_options())
    return "\n".join([f"{INTRODUCTION}\n{roles}\n", *groups, f"{SWEEP}\n{table(SweepFile)}"])


def name_of(group: type[BaseModel]) -> str:
    """Return a group's heading: `Model` of ModelOptions."""
    return group.__name__.removesuffix("Options")


def task_options() -> str:
    """Return a table of the options of each task that has some."""
    tables = [(name, find_task(name), table(find_task(name), "task.")) for name in OUR_TASKS]
    return "\n".join(
        f"### Options of `task.name={name}`\n\n{task.__doc__}\n\n{options}"
        for name, task, options in tables
        if len(task.model_fields) > 1
    )


def table(model: type[BaseModel], prefix: str = "", swept: bool = False) -> str:
    """Return a table of a model's fields, those of the models in it too."""
    columns = ["parameter", "type", "default", *(["swept"] if swept else []), "meaning"]
    lines = [columns, ["---"] * len(columns)]
    for name, field, schema in fields_of(model, prefix):
        if "const" in schema:  # a task's name, which the heading says
            continue
        default = "" if field.is_required() or isinstance(field.default, BaseModel) else f"`{as_yaml(field.default)}`"
        role = role_of(field)
        may = "yes" if role is Role.HYPERPARAMETER else f"no: {role.name.lower()}"
        lines.append([f"`{name}`", type_of(schema), default, *([may] if swept else []), field.description or ""])
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo, Mapping[str, Any]]]:
    """Yield each field with its dotted name and JSON schema, and after one that holds a model that model's fields."""
    properties = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        yield prefix + name, field, properties[name]
        if inner and inner is not Task:
            yield from fields_of(inner, f"{prefix}{name}.")


def type_of(schema: Mapping[str, Any]) -> str:
    """Return the type and the bounds of a JSON schema, in words."""
    if parts := schema.get("anyOf") or schema.get("oneOf"):
        return ", or ".join(map(type_of, parts))
    if "const" in schema:
        return f"`{as_yaml(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    bounds = [f"{sign} {number(schema[key])}" for key, sign in BOUNDS.items() if key in schema]
    return ", ".join([TYPES[schema.get("type", "object")], *bounds])


def number(value: float) -> str:
    """Return a bound as it is read most easily: a large power of two as such."""
    whole = int(value)
    if whole >= 2**16 and whole & (whole - 1) == 0:
        return f"2^{whole.bit_length() - 1}"
    return f"{value:g}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
