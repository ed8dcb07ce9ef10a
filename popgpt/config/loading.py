"""From a file, key=value words or plain values to a Config, and from what is wrong with them to a line each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from popgpt.config.derived import DERIVED, HEADS
from popgpt.config.names import ALIASES, FOREIGN, nearest_name
from popgpt.config.schema import Config
from popgpt.config.yaml12 import parse_value, read_yaml
from popgpt.tasks.registry import task_fields, task_name
from popgpt.text.errors import MOST_TOLD, UserError, combine_errors, named, shortened

COMMAND_LINE = "command line"


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` on top, aliases resolved, `task.OPTION` as one of the task's.

    Naming a head's width replaces an earlier number of heads; naming another task replaces the task with its options.
    """
    base, over = _canonical(base), _canonical(over)
    if any(over.get(head) is not None for head in HEADS):
        base = {key: value for key, value in base.items() if key not in HEADS}
    if "task" in base and "task" in over:
        over["task"] = _merge_tasks(base["task"], over["task"])
    return {**base, **over}


def _merge_tasks(base: Any, over: Any) -> Any:
    """One value of `task` with another on top."""
    named_otherwise = not isinstance(over, Mapping) or "name" in over
    if not isinstance(over, Mapping | str) or (named_otherwise and task_name(over) != task_name(base)):
        return over
    return {**_as_mapping(base), **_as_mapping(over)}


def _as_mapping(task: Any) -> Mapping[str, Any]:
    return task if isinstance(task, Mapping) else {"name": task_name(task)}


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of parameters under their names on the command line: the options of a task are `task.OPTION`."""
    task = values.get("task")
    options = {f"task.{name}": value for name, value in task.items()} if isinstance(task, Mapping) else {}
    parts = [options if name == "task" and options else {name: value} for name, value in values.items()]
    return {name: value for part in parts for name, value in part.items()}


def _canonical(given: Mapping[str, Any]) -> dict[str, Any]:
    for alias, name in ALIASES.items():
        if alias in given and name in given and given[alias] != given[name]:
            both = f"{alias}={shortened(given[alias])} and {name}={shortened(given[name])}"
            raise UserError(f"{both} are one parameter; give one of them")
    options = {key.removeprefix("task."): value for key, value in given.items() if key.startswith("task.")}
    values = {ALIASES.get(key, key): value for key, value in given.items() if not key.startswith("task.")}
    if options:
        values["task"] = _merge_tasks(values["task"], options) if "task" in values else options
    return values


def make_config(values: Mapping[str, Any], source: str = "config", typed: Iterable[str] = ()) -> Config:
    """Validate `values`, of which the command line gave `typed` and `source` the others.

    Raises UserError: a line for each mistake, naming where it is, key, value and what would be right.
    """
    values = _canonical(values)
    try:
        return Config(**values)
    except ValidationError as error:
        typed = {ALIASES.get(key, key) for key in typed}
        errors = error.errors(include_url=False)
        lines = []
        for e in errors[:MOST_TOLD]:
            names, foreign = _names_for(e, values.get("task"))
            lines.append(explain_error(e, names, COMMAND_LINE if typed & _blamed(e) else source, foreign))
        raise combine_errors(lines, len(errors[MOST_TOLD:])) from None


def _blamed(error: Mapping[str, Any]) -> set[str]:
    """The parameters that one of pydantic's errors is about, a task's options as `task.OPTION`."""
    parts, words = [str(part) for part in error["loc"]], re.findall(r"\w+", error["msg"])
    if parts == ["task"]:
        return {"task", *(f"task.{word}" for word in words)}
    return {parts[0], ".".join(parts[:2])} if parts else set(words)


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """The config in a YAML file with `key=value` overrides on top. Raises UserError."""
    base = read_yaml(path)
    if "space" in base:
        raise UserError(f"{path}: a search space, not a config; sweep it with python -m popgpt.tune {path}")
    over = parse_overrides(overrides, task=base.get("task"))
    return make_config(merge(base, over), str(path), typed=over)


def where_from(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, str]:
    """For each parameter: command line, file, derived (from one of those) or default."""
    file = read_yaml(path)
    over = flat(_canonical(parse_overrides(overrides, task=file.get("task"))))
    given = flat(merge(file, over))
    named = {name: COMMAND_LINE if name in over else "file" for name in given}
    named = {name: origin for name, origin in named.items() if given[name] is not None or name not in DERIVED}
    for derived, origins in DERIVED.items():
        if derived not in named and any(name.split(".")[0] in origins for name in given):
            named[derived] = "derived"
    return {**dict.fromkeys(Config.model_fields, "default"), **named}


def _names_for(error: Mapping[str, Any], task: Any) -> tuple[Iterable[str], Mapping[str, str]]:
    """The names that one of pydantic's errors may be about, and what else could be meant."""
    options = task_fields(task)
    if error["loc"][:1] == ("task",) and len(error["loc"]) > 1:
        return options, {}
    return Config.model_fields, FOREIGN | {name: f"give task: {{{name}: ...}}" for name in options if name != "name"}


def explain_error(
    error: Mapping[str, Any], names: Iterable[str], source: str, foreign: Mapping[str, str] = FOREIGN
) -> str:
    """One line for one of pydantic's errors. names, foreign: see nearest_name."""
    parts = [str(part) for part in error["loc"] if not str(part).startswith(("constrained", "function", "["))]
    key = named(".".join(parts))
    if error["type"] == "value_error":
        return f"{source}: {error['ctx']['error']}"
    given = shortened(error["input"])
    if error["type"] == "extra_forbidden":
        return f"{source}: unknown parameter {key}={given}{nearest_name(parts[-1], names, foreign)}"
    if error["type"] == "less_than_equal":
        return f"{source}: {key}={given} should be at most {error['ctx']['le']}"
    if error["type"] == "missing":
        return f"{source}: {key} is missing"
    if error["type"] == "bool_type":
        return f"{source}: {key}={given} should be true or false"
    if error["type"] == "string_too_short":
        return f"{source}: {key}={given} should not be empty; leave it out for the default"
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"{source}: {key}={given} should be a mapping, {{name: value}}"
    wanted = (
        re.sub(r"^(Input|String|Value) ", "", error["msg"])
        .replace("should be a valid", "should be a")
        .replace("a integer", "an integer")
    )
    return f"{source}: {key}={given} {wanted}"


def parse_overrides(
    overrides: Iterable[str], fields: Mapping[str, FieldInfo] = Config.model_fields, task: Any = None
) -> dict[str, Any]:
    """`key=value` words as a mapping; a later word wins. Text parameters take their value as it stands.

    task: what the file says of it, where the words name no other: which options are text is the task's to say.
    """
    overrides = list(overrides)
    fields = {**fields, **option_fields(overrides, task)}
    values: dict[str, Any] = {}
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(f"{shortened(word)} should be key=value")
        field = fields.get(ALIASES.get(key, key))
        values[key] = _scalar(text, field.annotation if field else None, word)
    return values


def option_fields(overrides: Iterable[str], task: Any) -> dict[str, FieldInfo]:
    """The options of the task that the last of some `key=value` words names, else of `task`, as `task.OPTION`."""
    for word in overrides:
        key, _, text = word.removeprefix("config.").partition("=")
        if key == "task.name":
            task = text
        elif key == "task":
            task = parse_value(text, shortened(word))
    options = task_fields(task).items()
    return {f"{prefix}task.{name}": field for name, field in options for prefix in ("", "config.")}


def _scalar(text: str, annotation: Any, word: str) -> Any:
    kinds = {annotation, *get_args(annotation)}
    if type(None) in kinds and text in ("null", "none", "None", ""):
        return None
    kinds |= {get_args(kind)[0] for kind in kinds if get_origin(kind) is Annotated}
    if any(kind is str or isinstance(kind, str) for kind in kinds):
        return text
    return parse_value(text, shortened(word))
