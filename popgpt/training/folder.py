"""The files of a run: their names, and what is in them."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from popgpt.config import Config, UserError, dump_yaml
from popgpt.files import write_atomic

BEST = "ckpt.pt"
LAST = "last.pt"
BEFORE_LAST = "previous.pt"
CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
RESULT = "result.json"
LOCK = ".lock"
ERROR = "error.txt"


def holds_state(out_dir: Path) -> bool:
    """Whether there is a state here to go on from."""
    return any((out_dir / name).exists() for name in (LAST, BEFORE_LAST, BEST))


@contextmanager
def claimed(out_dir: Path) -> Iterator[None]:
    """Hold a run's folder for this process. Raises UserError where another process holds it."""
    out_dir.mkdir(parents=True, exist_ok=True)
    with open(out_dir / LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"out_dir={out_dir} is in use by another run; give another out_dir") from None
        yield


def check_free(config: Config) -> None:
    """Refuse to start over a run that is there."""
    out_dir = Path(config.out_dir)
    if config.init_from != "resume" and (holds_state(out_dir) or (out_dir / RESULT).exists()):
        raise UserError(
            f"out_dir={config.out_dir} holds a run already: continue it with init_from=resume, "
            f"or choose another out_dir, or remove it first"
        )


def make(config: Config) -> None:
    """Make the run's folder. Raises UserError where it cannot be."""
    try:
        Path(config.out_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out_dir={config.out_dir}: {error.strerror}") from None


def write_config(config: Config) -> None:
    """Write out_dir/config.yaml: every parameter, derived ones included."""
    make(config)
    write_atomic(Path(config.out_dir) / CONFIG, dump_yaml(config.model_dump()).encode())


def outcome(out_dir: Path) -> list[Path]:
    """The files that say what a run was and found, as far as they are there."""
    return [out_dir / name for name in (CONFIG, RESULT, BEST) if (out_dir / name).exists()]


def begin_metrics(out_dir: Path, iteration: int) -> None:
    """Ready metrics.jsonl to go on after `iteration`: rows that a killed run wrote beyond it are dropped."""
    kept = [row for row in read_metrics(out_dir / METRICS) if row["iteration"] <= iteration]
    write_atomic(out_dir / METRICS, "".join(json.dumps(row) + "\n" for row in kept).encode())


def append_metrics(out_dir: Path, row: Mapping[str, Any]) -> None:
    """Add a logged iteration to metrics.jsonl."""
    with open(out_dir / METRICS, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file, but for a last one that was cut off; none where there is no file."""
    try:
        lines: Iterable[str] = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows += [json.loads(line)] if line.endswith("\n") else []
        except json.JSONDecodeError:
            raise UserError(f"{path}: line {number} is not JSON; mend it or take the line out") from None
    return rows
