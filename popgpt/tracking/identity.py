"""Which run a run is at the services, and what of that its folder keeps."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from popgpt.files import Folder, json_bytes

FILE = "tracking.json"
METRICS = "metrics.jsonl"
SYMBOLS = {"+": "add", "-": "sub", "*": "mul", "/": "div"}
LONGEST_PARAM = 6000
LONGEST_TAG = 5000

Value = list[Any]
"""A number to record, as JSON takes it: its name, itself, its time in ms since 1970, its step."""


@dataclass
class Identity:
    """What tracking.json holds.

    Every service gets the token with the run, so that a run whose id was lost is found again.
    """

    uri: str
    experiment: str
    name: str
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    project: str = ""
    group: str | None = None  # the parent's name
    parent: str | None = None  # the parent's id in MLflow
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    begun: int = field(default_factory=lambda: int(time.time() * 1000))  # ms since 1970
    ids: dict[str, str] = field(default_factory=dict)  # by service
    status: str | None = None  # how it ended; None while it runs
    unsent: list[list[Any]] = field(default_factory=list)  # what W&B is still to be told: kind and data

    def values(self, rows: Iterable[Mapping[str, Any]]) -> list[Value]:
        """The numbers of each row at its `iteration`; what is no number is left out.

        Their time is the run's begin plus the row's `train_seconds`, so a row makes the same values whoever sends it,
        and MLflow keeps a value that is sent twice once.
        """
        return [
            [name, value, self.begun + round(1000 * row.get("train_seconds", 0)), row["iteration"]]
            for row in rows
            for name, value in flat_metrics(row).items()
        ]

    def final(self, scores: Mapping[str, Any]) -> list[Value]:
        """The numbers that a run ended with, as `final_<name>`, at their `iteration`, or 0 where they have none."""
        return [[f"final_{name}", *rest] for name, *rest in self.values([{"iteration": 0, **scores}])]


def read(folder: Folder) -> Identity | None:
    """The identity kept in a folder; None where there is none that can be read."""
    try:
        kept = json.loads(folder.read(FILE))
        found = Identity(**{f.name: kept[f.name] for f in fields(Identity) if f.name in kept})
    except (OSError, ValueError, TypeError):
        return None
    found.unsent = found.unsent if isinstance(found.unsent, list) else []  # an object before 0.1.0
    return found


def write(folder: Folder, identity: Identity) -> None:
    """Replace the identity in a folder, on disk when this returns. Raises OSError."""
    folder.make()
    folder.write(FILE, json_bytes(asdict(identity)))


def rows(folder: Folder, before: int | None = None) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, those of iterations under `before`; a line that was cut off is left out."""
    try:
        content = folder.read_lines(METRICS)
    except FileNotFoundError:
        return []
    found = []
    for line in content.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if before is None or row["iteration"] < before:
            found.append(row)
    return found


def flat_metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row under names that MLflow takes; the exact match of each operation as `exact_match/add`."""
    flat = {
        _name(key): float(value)
        for key, value in row.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and key != "iteration"
    }
    for symbol, scores in (row.get("by_operation") or {}).items():
        flat[f"exact_match/{SYMBOLS.get(symbol, _name(symbol))}"] = float(scores["exact_match"])
    return flat


def params_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Parameters as text, null included; what is too long for MLflow is cut."""
    return _texts(values, LONGEST_PARAM)


def tags_of(values: Mapping[str, Any] | None) -> dict[str, str]:
    """Tags as text; None is left out."""
    return _texts({key: value for key, value in (values or {}).items() if value is not None}, LONGEST_TAG)


def _name(key: str) -> str:
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in key)


def _texts(values: Mapping[str, Any], longest: int) -> dict[str, str]:
    texts = {_name(k): v if isinstance(v, str) else json.dumps(v, default=str) for k, v in values.items()}
    return {k: v if len(v) <= longest else v[: longest - 1] + "…" for k, v in texts.items()}
