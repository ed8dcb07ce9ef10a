"""Which run a run is at the services, what tracking.json keeps of that, and its rows as values to record."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from popgpt.config import flat
from popgpt.metrics.row import METRICS_FILE, Row
from popgpt.storage.folder import Folder, json_bytes
from popgpt.text.redaction import redact_uri

FILE = "tracking.json"
SYMBOLS = {"+": "add", "-": "sub", "*": "mul", "/": "div"}
LONGEST_PARAM = 6000
LONGEST_TAG = 5000

Value = list[Any]
"""A number to record, as JSON takes it: its name, itself, its time in ms since 1970, its step."""

Id = Annotated[str, Field(pattern=r"^[\w-]{1,128}$")]
Status = Annotated[str, Field(pattern="^(completed|stopped|failed|interrupted)$")]
Kind = Annotated[str, Field(pattern="^(log_metrics|set_status|log_artifact)$")]
Unsent = dict[str, list[tuple[Kind, list[Any]]]]


@dataclass
class Identity:
    """What tracking.json holds.

    Every service gets the token with the run, so that a run whose id was lost is found again.
    """

    uri: str  # as `redact_uri` has it: a password is in the environment alone
    experiment: str
    name: str
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    project: str = ""
    group: str | None = None  # the parent's name
    parent: Id | None = None  # the parent's id in MLflow
    token: Annotated[str, Field(pattern="^[0-9a-f]{32}$")] = field(default_factory=lambda: uuid.uuid4().hex)
    begun: Annotated[int, Field(ge=0, le=2**50)] = field(default_factory=lambda: int(time.time() * 1000))  # ms, of 1970
    ids: dict[str, Id] = field(default_factory=dict)  # by tracker
    status: Status | None = None  # how it ended; None while it runs
    unsent: Unsent = field(default_factory=dict)  # operations by tracker, of those that do not backfill

    def values(self, rows: Iterable[Mapping[str, Any]]) -> list[Value]:
        """Return the numbers of each row at its `iteration`; what is no number is left out.

        Their time is the run's begin plus the row's `train_seconds`, so a row makes the same values whichever process
        sends it, and MLflow keeps a value that is sent twice once.
        """
        return [
            [name, value, self.begun + round(1000 * (row.get("train_seconds") or 0)), row["iteration"]]
            for row in rows
            for name, value in flat_metrics(row).items()
        ]

    def final_values(self, scores: Mapping[str, Any], split: str = "val") -> list[Value]:
        """Return the numbers that a run ended with, at their `iteration`, or at 0 if they have none.

        A name means one split: `final_exact_match` is of val, `test_exact_match` of test, where `val_loss` is
        `test_loss`.
        """
        values = self.values([{"iteration": 0, **scores}])
        if split == "val":
            return [[f"final_{name}", *rest] for name, *rest in values]
        return [[f"{split}_{name.removeprefix('val_')}", *rest] for name, *rest in values]


_writing = threading.Lock()


@dataclass(eq=False)
class TrackingFile:
    """The tracking.json of a run that is being recorded. Every tracker's thread writes it."""

    identity: Identity
    folder: Folder | None = None
    parent: TrackingFile | None = None

    def save(self) -> None:
        """Write the file; a folder that is gone or full is no reason to stop."""
        if self.folder:
            with _writing, suppress(OSError):
                write(self.folder, self.identity)


def read(folder: Folder) -> Identity | None:
    """Return the identity that a folder keeps; None if there is no tracking.json, or no valid one."""
    try:
        found = _schema().validate_json(folder.read(FILE), strict=True)
    except (OSError, ValueError):
        return None
    found.uri = redact_uri(found.uri)  # an object before 0.1.0 may hold a password
    return found


@cache
def _schema() -> TypeAdapter[Identity]:
    return TypeAdapter(Identity)


def write(folder: Folder, identity: Identity) -> None:
    """Replace a folder's tracking.json; it is on disk when this returns. Raises OSError."""
    folder.make()
    folder.write(FILE, json_bytes(asdict(identity)))


def read_rows(folder: Folder, before: int | None = None) -> list[Row]:
    """Return the rows of metrics.jsonl of iterations under `before`.

    A line that is no row, such as one that was cut off, is left out.
    """
    try:
        content = folder.read_lines(METRICS_FILE)
    except FileNotFoundError:
        return []
    found = []
    for line in content.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if not isinstance(row, dict) or not _is_count(row.get("iteration")) or not _is_time(row.get("train_seconds")):
            continue
        if before is None or row["iteration"] < before:
            found.append(row)
    return found


def flat_metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a row by names that MLflow takes; exact match by operation is `exact_match/add`."""
    flat = {_name(key): float(value) for key, value in row.items() if _is_number(value) and key != "iteration"}
    by_operation = row.get("by_operation")
    for symbol, scores in by_operation.items() if isinstance(by_operation, Mapping) else ():
        if isinstance(scores, Mapping) and _is_number(scores.get("exact_match")):
            flat[f"exact_match/{SYMBOLS.get(symbol, _name(symbol))}"] = float(scores["exact_match"])
    return flat


def _is_number(value: object) -> bool:
    """Return whether a double can hold `value`, infinities and NaN included."""
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**1023)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_time(value: object) -> bool:
    """Return whether `value` may be a row's `train_seconds`, which a row need not have."""
    return value is None or (_is_number(value) and 0 <= float(value) < 2**40)  # type: ignore[arg-type]


def params_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Return parameters as text, null included, an option as `task.OPTION`; what is too long for MLflow is cut."""
    return _texts(flat(values), LONGEST_PARAM)


def tags_of(values: Mapping[str, Any] | None) -> dict[str, str]:
    """Return tags as text; None is left out."""
    return _texts({key: value for key, value in (values or {}).items() if value is not None}, LONGEST_TAG)


def _name(key: str) -> str:
    return "".join(c if c.isalnum() or c in "_-. :/" else "_" for c in key)


def _texts(values: Mapping[str, Any], longest: int) -> dict[str, str]:
    texts = {_name(k): v if isinstance(v, str) else json.dumps(v, default=str) for k, v in values.items()}
    return {k: v if len(v) <= longest else v[: longest - 1] + "…" for k, v in texts.items()}
