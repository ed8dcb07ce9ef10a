"""The files of a run's folder: their names and contents, locks, and whether the run there may be resumed."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from popgpt.config import Config, Role, dump_yaml, flat, may_agree, parameters_of, parse_yaml
from popgpt.metrics.row import METRICS_FILE, row_problem
from popgpt.storage.folder import Folder, json_bytes, parse_json, split_lines
from popgpt.storage.stores import StoreError
from popgpt.text.errors import UserError, shortened

BEST = "ckpt.pt"
CONFIG = "config.yaml"
RESULT = "result.json"
ERROR = "error.txt"
MARK = ".mark"
DRIVER_LOCK = ".driver.lock"
WRITER_LOCK = ".lock"
SWEEP = "sweep.json"  # in the folder of a sweep, whose winner's run is in best/
PATIENCE_SECONDS = 20.0
STATE = re.compile(r"state-(\d{1,18})\.pt")


def state_name(iteration: int) -> str:
    """Return the name of the file of the state after an iteration."""
    return f"state-{iteration}.pt"


def state_names(folder: Folder) -> list[str]:
    """Return the names of the files of states, newest first."""
    names = [match for match in map(STATE.fullmatch, folder.names()) if match]
    return [match[0] for match in sorted(names, key=lambda match: -int(match[1]))]


def last_state(folder: Folder) -> str | None:
    """Return the name of the newest file to resume from; None if there is none."""
    return next(iter(state_names(folder)), BEST if BEST in folder.names() else None)


def keep_state(folder: Folder, iteration: int, best: bool, before: int | None) -> None:
    """Remove all states but those of `iteration` and `before`; with `best`, ckpt.pt becomes that of `iteration`."""
    name = state_name(iteration)
    if best:
        folder.copy(name, BEST)
    for other in state_names(folder):
        if other != name and (before is None or other != state_name(before)):
            folder.remove(other)


def drop_states(folder: Folder, keep: int) -> None:
    """Remove all but the newest `keep` states of a run that has ended. Without a ckpt.pt the last one stays."""
    least = 0 if BEST in folder.names() else 1
    for name in state_names(folder)[max(keep, least) :]:
        folder.remove(name)


def mark(folder: Folder) -> str:
    """Write a random token into the folder, and return it."""
    token = uuid.uuid4().hex
    make(folder)
    folder.write(MARK, token.encode())
    return token


def check_shared(folder: Folder, token: str, node: str) -> None:
    """Raise UserError if the folder does not hold the token: it is one of the same name on another node."""
    deadline = time.monotonic() + PATIENCE_SECONDS  # a file server may be late
    while True:
        try:
            if folder.read(MARK) == token.encode():
                return
        except StoreError as error:
            raise UserError(f"out_dir={folder.where} on node {node}: {error}") from None
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise UserError(
                f"out_dir={folder.where} on node {node} is not the folder that the driver sees: "
                f"give one that all nodes share, or a URI such as s3://bucket/run"
            )
        time.sleep(0.2)


@contextmanager
def claimed(
    folder: Folder,
    lock: str = WRITER_LOCK,
    patience: float = PATIENCE_SECONDS,
    advice: str = "give another out_dir",
) -> Iterator[None]:
    """Hold a lock on a run's folder. In a store, which has no locks, this does nothing.

    Args:
        patience: seconds to wait for a process that holds it and may be about to end, as its driver was killed.
        advice: what a person can do where another process holds it.
    Raises:
        UserError: another process holds it.
    """
    make(folder)
    if not folder.path:
        yield
        return
    with open(folder.path / lock, "w") as file:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UserError(f"out_dir={folder.where} is in use by another run; {advice}") from None
                time.sleep(0.05)
        yield


@contextmanager
def explain_store_errors(folder: Folder) -> Iterator[None]:
    """Raise a StoreError of the run's folder as UserError."""
    try:
        yield
    except StoreError as error:
        raise UserError(f"out_dir={folder.where}: {error}") from None


def make(folder: Folder) -> None:
    """Create the run's folder. Raises UserError if that fails."""
    try:
        folder.make()
    except OSError as error:
        raise UserError(f"out_dir={folder.where}: {describe_error(error)}") from None


def check_place(folder: Folder) -> None:
    """Raise UserError if a run's folder can't be created or written, or another process trains in it.

    It writes nothing; a store is not asked.
    """
    path = folder.path
    if not path:
        return
    try:
        nearest = next(each for each in (path, *path.parents) if os.path.lexists(each))
        if not nearest.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        locked = (path / DRIVER_LOCK).exists()
    except OSError as error:
        raise UserError(f"out_dir={folder.where}: {describe_error(error)}") from None
    if locked:
        with claimed(folder, DRIVER_LOCK, patience=0):
            pass


def describe_error(error: OSError) -> str:
    """Return what a file system complains of, in one line."""
    return error.strerror or str(error).splitlines()[0]


def is_resumable(config: Config) -> bool:
    """Return whether out_dir holds this very run, unfinished, so that the same command resumes it.

    A run is a function of its parameters, so resuming it ends as starting anew would. Raises UserError if out_dir holds
    a finished run or one of other parameters, unless init_from says to resume it.
    """
    folder = Folder(config.out_dir)
    started = folder.names() & {CONFIG, RESULT} or last_state(folder)
    if not started or config.init_from == "resume":
        return bool(started)
    before = flat(read_config(folder))
    given = flat(config.model_dump(exclude=set(parameters_of(Role.PLACE))))
    others = [key for key, value in given.items() if not may_agree(key, before.get(key, value), value)]
    begun = last_state(folder) or RESULT in folder.names()
    finished = read_result(folder).get("status") == "completed"
    if begun and (finished or others):
        key = others[0] if others else ""
        other = f" of {key}={shortened(before[key])}, not {shortened(given[key])}" if others else ""
        further = " and a larger max_iters" if finished and not others else ""
        raise UserError(
            f"out_dir={config.out_dir} holds {'a finished' if finished else 'an unfinished'} run{other}: "
            f"continue it with init_from=resume{further}, or choose another out_dir, or remove it first"
        )
    return not others


def read_config(folder: Folder) -> dict[str, Any]:
    """Return the parameters of the run that is there; none if they can't be read."""
    try:
        return parse_yaml(folder.read(CONFIG), folder.at(CONFIG))
    except (FileNotFoundError, UserError):
        return {}


def write_config(config: Config) -> None:
    """Write every parameter, derived ones included, to out_dir/config.yaml."""
    folder = Folder(config.out_dir)
    make(folder)
    folder.write(CONFIG, dump_yaml(config.model_dump()).encode())


def read_result(folder: Folder) -> dict[str, Any]:
    """Return what result.json holds; nothing if it is missing or torn."""
    try:
        found = parse_json(folder.read(RESULT), RESULT)
    except (FileNotFoundError, UserError):
        return {}
    return found if isinstance(found, dict) else {}


def write_result(folder: Folder, result: Mapping[str, Any]) -> None:
    """Replace result.json."""
    folder.write(RESULT, json_bytes(result))


def outcome(folder: Folder) -> list[str]:
    """Return the names of the files that say what a run was and found, as far as they exist."""
    names = folder.names()
    return [name for name in (CONFIG, RESULT, BEST) if name in names]


@contextmanager
def local_outcome(folder: Folder) -> Iterator[list[Path]]:
    """Yield paths on this machine of the `outcome` files that can be read; they last as long as the context."""
    if folder.path:
        yield [folder.path / name for name in outcome(folder)]
        return
    with tempfile.TemporaryDirectory() as scratch:
        with suppress(StoreError):
            for name in outcome(folder):
                (Path(scratch) / name).write_bytes(folder.read(name))
        yield sorted(Path(scratch).iterdir())


def metrics_line(row: Mapping[str, Any]) -> str:
    """Return a row as a line of metrics.jsonl; what is not finite is null."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(plain) + "\n"


def read_metrics(folder: Folder) -> list[dict[str, Any]]:
    """Return the logged rows without a last one that was cut off; none if there is no file.

    Raises UserError, naming the line, if a line is no row.
    """
    try:
        lines = split_lines(folder.read_lines(METRICS_FILE))
    except FileNotFoundError:
        return []
    where = folder.at(METRICS_FILE)
    return [parse_row(line, f"{where}: line {number}") for number, line in enumerate(lines, 1) if line.endswith(b"\n")]


def parse_row(line: bytes, called: str) -> dict[str, Any]:
    """Parse a row from its line. Raises UserError."""
    try:
        row: dict[str, Any] = parse_json(line, called)
    except UserError:
        raise UserError(f"{called} is not JSON; mend it or take the line out") from None
    if problem := row_problem(row):
        raise UserError(f"{called}: {problem}; mend it or take the line out")
    return row
