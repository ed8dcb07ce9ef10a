"""A tracker as small as one can be: it appends what it is told to a file of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from popgpt.tracking.identity import Identity, Value
from popgpt.tracking.tracker import Tracker


class JsonLines(Tracker):
    def __init__(self, address: str) -> None:
        self._path = Path(address)

    def start(self, run: Identity, folder: str | None, again: bool) -> str:
        self._write(event="start", name=run.name, params=run.params)
        return run.token

    def log_metrics(self, run: Identity, values: Sequence[Value]) -> None:
        for name, value, _, iteration in values:
            self._write(event="metric", name=name, value=value, iteration=iteration)

    def finish(
        self, run: Identity, status: str, values: Sequence[Value], tags: Mapping[str, str], params: Mapping[str, str]
    ) -> None:
        self.log_metrics(run, values)
        self._write(event="finish", status=status)

    def _write(self, **what: Any) -> None:
        with open(self._path, "a") as file:
            file.write(json.dumps(what) + "\n")
