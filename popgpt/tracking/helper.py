"""The process that talks to one service: in the one that trains, its imports and requests would hold up training."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from popgpt.tracking.failure import failure
from popgpt.tracking.identity import Identity


def main() -> None:
    """Serve: on standard input first the service and its URI, which may hold a password and so is no argument, then a
    request a line; on standard output an answer a line; until the input ends.
    """
    service, uri = json.loads(sys.stdin.readline())
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    connection: Any = None
    for line in sys.stdin:
        try:
            connection = connection or connect(service, uri)
            answer = {"id": perform(connection, json.loads(line))}
        except Exception as error:
            answer = failure(error)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def connect(service: str, uri: str) -> Any:
    """An `Mlflow` or a `Wandb`."""
    if service == "mlflow":
        from popgpt.tracking.mlflow import Mlflow

        return Mlflow(uri)
    from popgpt.tracking.wandb import Wandb

    return Wandb()


def perform(connection: Any, request: dict[str, Any]) -> Any:
    """Do what a request says: `kind`, a method of the service's, `data`, its arguments, and `run`."""
    return getattr(connection, request["kind"])(Identity(**request["run"]), *request["data"])
