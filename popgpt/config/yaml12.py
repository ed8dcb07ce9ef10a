"""YAML by the core schema of YAML 1.2, read and written."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from popgpt.text.errors import UserError, named, shortened

LARGEST_FILE, DEEPEST, MOST_NODES, LONGEST_NUMBER = 2**16, 32, 2**16, 1000
_CORE = {  # YAML 1.2.2, 10.3.2
    "null": re.compile(r"(?:null|Null|NULL|~|)\Z"),
    "bool": re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"),
    "int": re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z"),
    "float": re.compile(
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
}
_MERGE = re.compile(r"<<\Z")


def _refused(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


class _Loader(yaml.SafeLoader):
    """YAML by the core schema of YAML 1.2, with the merge key of 1.1.

    PyYAML reads YAML 1.1, where 010 is 8, 1:30 is 90 and yes is true. Beside that, a key given twice is an error here,
    and so is what is too deep, or too much once its aliases are followed.
    """

    yaml_implicit_resolvers: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._nested = 0
        self._sizes: dict[int, int] = {}  # of the nodes that are whole, with all that they hold

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        mark, alias = event.start_mark, isinstance(event, yaml.AliasEvent)
        self._nested += 1
        if self._nested > DEEPEST:
            raise _refused(f"nested more than {DEEPEST} deep", mark)
        node = super().compose_node(parent, index)
        assert node is not None
        self._nested -= 1
        if alias and id(node) not in self._sizes:
            raise _refused("an alias stands inside what it names", mark)
        if not alias:
            parts = node.value if isinstance(node, yaml.CollectionNode) else []
            parts = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
            self._sizes[id(node)] = 1 + sum(self._sizes[id(part)] for part in parts)
        if self._sizes[id(node)] > MOST_NODES:
            raise _refused(f"more than {MOST_NODES} values, aliases followed", mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise _refused(f"{named(key.value)} is given twice", key.start_mark)
            seen.add(key.value)
        return node

    def construct_core(self, node: yaml.ScalarNode) -> Any:
        """A scalar that is resolved, or tagged, as one of the core schema's."""
        text, kind = str(self.construct_scalar(node)), node.tag.rpartition(":")[2]
        if not _CORE[kind].match(text):
            raise _refused(f"{shortened(text)} is no {kind}", node.start_mark)
        if len(text) > LONGEST_NUMBER:
            raise _refused(f"a number of {len(text)} digits", node.start_mark)
        if kind == "int":
            return int(text[2:], {"0o": 8, "0x": 16}[text[:2]]) if text[:2] in ("0o", "0x") else int(text)
        if kind == "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        return None if kind == "null" else text.lower() == "true"


class _Dumper(yaml.SafeDumper):
    """Quotes what would be no text to YAML 1.1 or to 1.2."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: list(resolvers) for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


_FIRST = {"null": ["", *"nN~"], "bool": [*"tTfF"], "int": [*"-+0123456789"], "float": [*"-+.0123456789"]}
for _kind, _pattern in _CORE.items():
    for _reader in (_Loader, _Dumper):
        _reader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", _pattern, _FIRST[_kind])
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", _MERGE, ["<"])
_Loader.yaml_constructors = {
    **{f"tag:yaml.org,2002:{kind}": _Loader.construct_core for kind in _CORE},
    **{f"tag:yaml.org,2002:{kind}": getattr(_Loader, f"construct_yaml_{kind}") for kind in ("str", "seq", "map")},
    "tag:yaml.org,2002:merge": _Loader.construct_yaml_str,  # `<<` that is no key
    None: _Loader.construct_undefined,
}


@lru_cache(8)
def _loaded(text: str) -> Any:
    """What a YAML text holds. Raises many kinds of errors."""
    if len(text) > LARGEST_FILE:
        raise ValueError(f"{len(text)} characters are too many; at most {LARGEST_FILE} are possible")
    return yaml.load(text, _Loader)


def _load(text: str) -> Any:
    """What a YAML text holds, the caller's own. Raises many kinds of errors."""
    return copy.deepcopy(_loaded(text))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError where there is none."""
    try:
        with open(path, "rb") as file:
            content = file.read(4 * LARGEST_FILE + 1)
    except FileNotFoundError as error:
        given = "; the file comes first, then key=value" if "=" in str(path) else ""
        raise UserError(f"{named(str(path), 300)}: {error.strerror}{given}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        raise UserError(f"{named(str(path), 300)}: {getattr(error, 'strerror', None) or error}") from None
    return parse_yaml(content, path)


def parse_yaml(content: bytes, path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file's content. Raises UserError where there is none, naming `path`."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a UTF-8 text file") from None
    try:
        values = _load(text)
    except Exception as error:  # PyYAML lets through what int() and deep nesting raise
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(_python_syntax(text, path) or f"{where}: not valid YAML: {_yaml_problem(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        wanted = "should be a mapping of parameters, `name: value` a line"
        raise UserError(_python_syntax(text, path) or f"{path}: {wanted}")
    return values


def _python_syntax(text: str, path: str | Path) -> str | None:
    """The first assignment of a text that is in Python's syntax, and what it would be in YAML; None where it isn't."""
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.match(r"([A-Za-z_]\w*)\s*=(?!=)\s*([^\s#][^#]*)", line):
            name, value = found[1], found[2].strip()
            yaml_value = {"True": "true", "False": "false", "None": "null"}.get(value, value)
            told, wanted = shortened(line.strip()), shortened(f"{name}: {yaml_value}")
            return f"{path}:{number}: {told} is Python; a config is YAML: {wanted}"
    return None


def _yaml_problem(error: Exception) -> str:
    """What is wrong with a YAML text, in one line."""
    said = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error).splitlines() or [""]
    return "nested too deeply" if isinstance(error, RecursionError) else named(" ".join(said[0].split())[:300])


def dump_yaml(values: Mapping[str, Any]) -> str:
    """YAML text that read_yaml gives back as it was."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_value(text: str, where: str) -> Any:
    """The value that a YAML text holds. Raises UserError where there is none, beginning with `where`."""
    try:
        return _load(text)
    except Exception as error:  # PyYAML lets through what int() and deep nesting raise
        raise UserError(f"{where}: the value is not valid YAML: {_yaml_problem(error)}") from None


def as_yaml(value: Any) -> str:
    """A parameter's value for people, as YAML has it; a text without quotes."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
