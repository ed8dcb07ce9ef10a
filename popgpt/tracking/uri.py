"""Where MLflow is: its tracking URI, and the command that opens its pages."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from popgpt.text.redaction import is_web, secrets, without_secrets


def tracking_uri() -> str:
    """Return MLFLOW_TRACKING_URI, by default mlflow.db in the current folder. An SQLite path is made absolute."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    path, query = sqlite_path(uri), uri.partition("?")[1:]
    return "".join((f"sqlite:///{path}", *query)) if path else uri


def sqlite_path(uri: str) -> Path | None:
    """Return the absolute path of an SQLite store; None for another store, and for SQLite's own `file:` names."""
    path = uri.partition("?")[0].removeprefix("sqlite:///")
    return Path(path).absolute() if uri.startswith("sqlite:///") and path and not path.startswith("file:") else None


def ui_command(uri: str | None = None) -> str:
    """Return the shell command that opens MLflow's pages for `uri`, by default `tracking_uri()`.

    The command holds no secret: a browser asks for a password itself, and `mlflow ui` reads the environment.
    """
    uri = uri or tracking_uri()
    python = Path(sys.executable)
    module = [str(python.relative_to(Path.cwd())) if python.is_relative_to(Path.cwd()) else str(python), "-m"]
    if is_web(uri):
        return shlex.join([*module, "webbrowser", without_secrets(uri)])
    if secrets(uri):
        return f'MLFLOW_BACKEND_STORE_URI="$MLFLOW_TRACKING_URI" {shlex.join([*module, "mlflow", "ui"])}'
    return shlex.join([*module, "mlflow", "ui", "--backend-store-uri", uri])
