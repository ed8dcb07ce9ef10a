"""Writes a run's folder while the run trains: logged rows at once, states in a thread beside training."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from popgpt.metrics.row import METRICS_FILE, Row, RunResult
from popgpt.storage.folder import Folder, LineFile
from popgpt.text.errors import UserError
from popgpt.training import checkpoint, folder

TEMPORARY = re.compile(
    r"\.(ckpt\.pt|state-\d+\.pt|metrics(-\d+)?\.jsonl|result\.json|config\.yaml|\.mark|error\.txt)\."
)
"""Files that a killed run leaves half written."""


class RunWriter:
    """Writes a run's folder on the main worker; on the others it does nothing. Use as a context around the run.

    At most one state is being written; the next one waits for it. An error of the file system, such as a full disk,
    does not end training where it happens: it sets `failed`, and leaving the context raises UserError.
    """

    def __init__(self, run_folder: Folder, active: bool = True):
        self.write_seconds = 0.0
        self.wait_seconds = 0.0
        self._folder = run_folder
        self._active = active
        self._lock = folder.claimed(run_folder)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="popgpt-writer")
        self._writing: Future[None] | None = None
        self._error: OSError | None = None
        self._metrics = LineFile(run_folder, METRICS_FILE)
        self._last_saved: int | None = None

    def __enter__(self) -> RunWriter:
        if self._active:
            self._lock.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            self.flush()
            self._thread.shutdown()
        finally:
            if self._active:
                self._lock.__exit__(None, None, None)
        if self._error and kind is None:
            raise UserError(self._describe(self._error))

    @property
    def failed(self) -> bool:
        """Whether something could not be written."""
        return self._error is not None

    def recover(self, iteration: int, best: bool, result: RunResult) -> None:
        """Undo or complete what a killed run left half done, to continue after `iteration`.

        Args:
            best: the state of `iteration` is the best so far.
            result: what result.json holds then.
        """
        if not self._active:
            return
        self._last_saved = iteration or None
        names = self._folder.names()
        for name in [*filter(TEMPORARY.match, names), *folder.state_names(self._folder)[2:]]:
            self._folder.remove(name)
        if best and folder.state_name(iteration) in names:
            self._folder.copy(folder.state_name(iteration), folder.BEST)
        kept = [row for row in folder.read_metrics(self._folder) if row["iteration"] <= iteration]
        self._metrics.replace([folder.metrics_line(row) for row in kept])
        if iteration and folder.read_result(self._folder).get("last_iteration") != iteration:
            folder.write_result(self._folder, result)

    def log(self, row: Row) -> None:
        """Append a row to metrics.jsonl. In a store it is uploaded with the next state."""
        if not self._active or self.failed:  # after half a line, no other line
            return
        try:
            self._metrics.append(folder.metrics_line(row))
        except OSError as error:
            self._error = error

    def save(self, state: dict[str, Any], best: bool, result: RunResult) -> None:
        """Save a state, and result.json with it. The caller may change the state's tensors at once."""
        if not self._active:
            return
        self.flush()
        started = time.perf_counter()
        if not self.failed:
            lines = len(self._metrics)
            self._writing = self._thread.submit(self._write, copy_to_cpu(state), best, dict(result), lines)
        self.wait_seconds += time.perf_counter() - started

    def flush(self) -> None:
        """Wait until the last state is on disk."""
        started = time.perf_counter()
        try:
            if self._writing:
                self._writing.result()
        except OSError as error:
            self._error = error
        self.wait_seconds += time.perf_counter() - started

    def _write(self, state: dict[str, Any], best: bool, result: RunResult, lines: int) -> None:
        started = time.perf_counter()
        self._metrics.sync(lines, final=result["status"] == "completed")
        checkpoint.save(state, self._folder)
        before, self._last_saved = self._last_saved, state["iteration"]
        folder.keep_state(self._folder, state["iteration"], best, before)
        folder.write_result(self._folder, result)
        self.write_seconds += time.perf_counter() - started

    def _describe(self, error: OSError) -> str:
        message = f"out_dir={self._folder.where}: {folder.describe_error(error)}"
        if not self._last_saved:
            return message
        last = self._folder.at(folder.state_name(self._last_saved))
        return f"{message}; {last} is whole: mend this and give the same command again"


def copy_to_cpu(value: Any) -> Any:
    """Return `value` with every tensor in it copied to the CPU's memory."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: copy_to_cpu(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(copy_to_cpu, value))
    return value
