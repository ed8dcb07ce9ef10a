"""The files of a run: their names, what is in them, and whether the run there is the one that is asked for."""

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
from popgpt.metrics.row import row_problem
from popgpt.storage.folder import Folder, json_bytes, parse_json, split_lines
from popgpt.storage.stores import StoreError
from popgpt.text.errors import UserError, shortened

BEST = "ckpt.pt"
CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
RESULT = "result.json"
ERROR = "error.txt"
MARK = ".mark"
DRIVER_LOCK = ".driver.lock"
WRITER_LOCK = ".lock"
SWEEP = "sweep.json"  # in the folder of a sweep, whose winner's run is in best/
PATIENCE_SECONDS = 20.0
STATE = re.compile(r"state-(\d{1,18})\.pt")


def state_name(iteration: int) -> str:
    """The file of the state after an iteration."""
    return f"state-{iteration}.pt"


def state_names(folder: Folder) -> list[str]:
    """The files of the states that are there, newest first."""
    names = [match for match in map(STATE.fullmatch, folder.names()) if match]
    return [match[0] for match in sorted(names, key=lambda match: -int(match[1]))]


def last_state(folder: Folder) -> str | None:
    """The newest file to go on from."""
    return next(iter(state_names(folder)), BEST if BEST in folder.names() else None)


def keep_state(folder: Folder, iteration: int, best: bool, before: int | None) -> None:
    """Of the states, only that of `iteration` and that of `before` stay; `best` makes the first ckpt.pt too."""
    name = state_name(iteration)
    if best:
        folder.copy(name, BEST)
    for other in state_names(folder):
        if other != name and (before is None or other != state_name(before)):
            folder.remove(other)


def drop_states(folder: Folder, keep: int) -> None:
    """Remove the states of a run that has ended but the newest `keep`; without a ckpt.pt the last one stays."""
    least = 0 if BEST in folder.names() else 1
    for name in state_names(folder)[max(keep, least) :]:
        folder.remove(name)


def mark(folder: Folder) -> str:
    """Leave a word in the folder that nothing else can know, and return it."""
    token = uuid.uuid4().hex
    make(folder)
    folder.write(MARK, token.encode())
    return token


def check_shared(folder: Folder, token: str, node: str) -> None:
    """Raises UserError where the folder is not the one that was marked, but one of the same name on another node."""
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
def claimed(folder: Folder, lock: str = WRITER_LOCK, patience: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Hold a run's folder for this process. A store has no locks: there it is on trust.

    Args:
        patience: seconds to wait for a process that is about to end, as its driver was killed.
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
                    raise UserError(f"out_dir={folder.where} is in use by another run; give another out_dir") from None
                time.sleep(0.05)
        yield


@contextmanager
def told_of_store(folder: Folder) -> Iterator[None]:
    """Turns a store's complaint into UserError."""
    try:
        yield
    except StoreError as error:
        raise UserError(f"out_dir={folder.where}: {error}") from None


def make(folder: Folder) -> None:
    """Make the run's folder. Raises UserError where it cannot be."""
    try:
        folder.make()
    except OSError as error:
        raise UserError(f"out_dir={folder.where}: {why(error)}") from None


def check_place(folder: Folder) -> None:
    """Raises UserError where a run's folder can be neither made nor written, or another process trains in it.

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
        raise UserError(f"out_dir={folder.where}: {why(error)}") from None
    if locked:
        with claimed(folder, DRIVER_LOCK, patience=0):
            pass


def why(error: OSError) -> str:
    """What a file system complains of, in one line."""
    return error.strerror or str(error).splitlines()[0]


def holds_unfinished(config: Config) -> bool:
    """Whether out_dir holds this very run, not finished, with which the same command goes on.

    A run is a function of its parameters, so to go on is to come to what starting anew would come to. Raises UserError
    where out_dir holds a finished run or one of other parameters, unless init_from says to resume it.
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
    """The parameters of the run that is there; none where they can't be read."""
    try:
        return parse_yaml(folder.read(CONFIG), folder.at(CONFIG))
    except (FileNotFoundError, UserError):
        return {}


def write_config(config: Config) -> None:
    """Write out_dir/config.yaml: every parameter, derived ones included."""
    folder = Folder(config.out_dir)
    make(folder)
    folder.write(CONFIG, dump_yaml(config.model_dump()).encode())


def read_result(folder: Folder) -> dict[str, Any]:
    """What result.json holds; nothing where it is not there or torn."""
    try:
        found = parse_json(folder.read(RESULT), RESULT)
    except (FileNotFoundError, UserError):
        return {}
    return found if isinstance(found, dict) else {}


def write_result(folder: Folder, result: Mapping[str, Any]) -> None:
    """Replace result.json."""
    folder.write(RESULT, json_bytes(result))


def outcome(folder: Folder) -> list[str]:
    """The files that say what a run was and found, as far as they are there."""
    names = folder.names()
    return [name for name in (CONFIG, RESULT, BEST) if name in names]


@contextmanager
def local_outcome(folder: Folder) -> Iterator[list[Path]]:
    """Paths on this machine of those files, as far as they can be read, for as long as the context lasts."""
    if folder.path:
        yield [folder.path / name for name in outcome(folder)]
        return
    with tempfile.TemporaryDirectory() as scratch:
        with suppress(StoreError):
            for name in outcome(folder):
                (Path(scratch) / name).write_bytes(folder.read(name))
        yield sorted(Path(scratch).iterdir())


def metrics_line(row: Mapping[str, Any]) -> str:
    """A logged iteration as metrics.jsonl has it; what is not finite is null."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    return json.dumps(plain) + "\n"


def read_metrics(folder: Folder) -> list[dict[str, Any]]:
    """The logged rows, but for a last one that was cut off; none where there is no file.

    Raises UserError, naming the line, where one is no row.
    """
    try:
        lines = split_lines(folder.read_lines(METRICS))
    except FileNotFoundError:
        return []
    where = folder.at(METRICS)
    return [parse_row(line, f"{where}: line {number}") for number, line in enumerate(lines, 1) if line.endswith(b"\n")]


def parse_row(line: bytes, called: str) -> dict[str, Any]:
    """A row from its line. Raises UserError."""
    try:
        row: dict[str, Any] = parse_json(line, called)
    except UserError:
        raise UserError(f"{called} is not JSON; mend it or take the line out") from None
    if problem := row_problem(row):
        raise UserError(f"{called}: {problem}; mend it or take the line out")
    return row
