"""From a file, key=value words or plain values to a Config, and from what is wrong with them to a line each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from popgpt.config.names import ALIASES, FOREIGN, nearest_name
from popgpt.config.schema import DERIVED, Config
from popgpt.config.yaml12 import parse_value, read_yaml
from popgpt.text.errors import MOST_TOLD, UserError, named, shortened, told_together

COMMAND_LINE = "command line"


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `over` on top, aliases resolved. Naming a head's width replaces an earlier number of heads."""
    base, over = _canonical(base), _canonical(over)
    heads = {"d_head", "n_head"}
    if any(over.get(head) is not None for head in heads):
        base = {key: value for key, value in base.items() if key not in heads}
    return {**base, **over}


def _canonical(given: Mapping[str, Any]) -> dict[str, Any]:
    for alias, name in ALIASES.items():
        if alias in given and name in given and given[alias] != given[name]:
            both = f"{alias}={shortened(given[alias])} and {name}={shortened(given[name])}"
            raise UserError(f"{both} are one parameter; give one of them")
    return {ALIASES.get(key, key): value for key, value in given.items()}


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
        lines = [
            explain_error(e, Config.model_fields, COMMAND_LINE if typed & _blamed(e) else source)
            for e in errors[:MOST_TOLD]
        ]
        raise told_together(lines, len(errors[MOST_TOLD:])) from None


def _blamed(error: Mapping[str, Any]) -> set[str]:
    """The parameters that one of pydantic's errors is about."""
    return {str(error["loc"][0])} if error["loc"] else set(re.findall(r"\w+", error["msg"]))


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """The config in a YAML file with `key=value` overrides on top. Raises UserError."""
    base = read_yaml(path)
    if "space" in base:
        raise UserError(f"{path}: a search space, not a config; sweep it with python -m popgpt.tune {path}")
    over = parse_overrides(overrides)
    return make_config(merge(base, over), str(path), typed=over)


def where_from(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, str]:
    """For each parameter: command line, file, derived (from one of those) or default."""
    over, base = _canonical(parse_overrides(overrides)), _canonical(read_yaml(path))
    named = {**dict.fromkeys(base, "file"), **dict.fromkeys(over, COMMAND_LINE)}
    given = {**base, **over}
    named = {name: origin for name, origin in named.items() if given[name] is not None or name not in DERIVED}
    for derived, origins in DERIVED.items():
        if derived not in named and any(origin in named for origin in origins):
            named[derived] = "derived"
    return {name: named.get(name, "default") for name in Config.model_fields}


def explain_error(
    error: Mapping[str, Any], fields: Mapping[str, FieldInfo], source: str, foreign: Mapping[str, str] = FOREIGN
) -> str:
    """One line for one of pydantic's errors."""
    parts = [str(part) for part in error["loc"] if not str(part).startswith(("constrained", "function", "["))]
    key = named(".".join(parts))
    if error["type"] == "value_error":
        return f"{source}: {error['ctx']['error']}"
    given = shortened(error["input"])
    if error["type"] == "extra_forbidden":
        return f"{source}: unknown parameter {key}={given}{nearest_name(parts[-1], fields, foreign)}"
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


def parse_overrides(overrides: Iterable[str], fields: Mapping[str, FieldInfo] = Config.model_fields) -> dict[str, Any]:
    """`key=value` words as a mapping; a later word wins. Text parameters take their value as it stands."""
    values: dict[str, Any] = {}
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise UserError(f"{shortened(word)} should be key=value")
        field = fields.get(ALIASES.get(key, key))
        values[key] = _scalar(text, field.annotation if field else None, word)
    return values


def _scalar(text: str, annotation: Any, word: str) -> Any:
    kinds = {annotation, *get_args(annotation)}
    if type(None) in kinds and text in ("null", "none", "None", ""):
        return None
    kinds |= {get_args(kind)[0] for kind in kinds if get_origin(kind) is Annotated}
    if any(kind is str or isinstance(kind, str) for kind in kinds):
        return text
    return parse_value(text, shortened(word))
