"""What a run keeps while it goes on: logged rows at once, states in a thread beside training."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from popgpt.metrics.row import Row, RunResult
from popgpt.storage.folder import Folder, LineFile
from popgpt.text.errors import UserError
from popgpt.training import checkpoint, folder

UNFINISHED = re.compile(
    r"\.(ckpt\.pt|state-\d+\.pt|metrics(-\d+)?\.jsonl|result\.json|config\.yaml|\.mark|error\.txt)\."
)


class Keeper:
    """Writes a run's folder, on the main worker; on the others it does nothing. Use as a context around the run.

    At most one state is being written; the next waits for it. A disk that is full is found out afterwards: `failed`
    says so, and leaving the context raises UserError.
    """

    def __init__(self, run_folder: Folder, active: bool = True):
        self.write_seconds = 0.0
        self.wait_seconds = 0.0
        self._folder = run_folder
        self._active = active
        self._claim = folder.claimed(run_folder)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="popgpt-keeper")
        self._writing: Future[None] | None = None
        self._trouble: OSError | None = None
        self._metrics = LineFile(run_folder, folder.METRICS)
        self._saved: int | None = None

    def __enter__(self) -> Keeper:
        if self._active:
            self._claim.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *ending: Any) -> None:
        try:
            self._wait()
            self._thread.shutdown()
        finally:
            if self._active:
                self._claim.__exit__(None, None, None)
        if self._trouble and kind is None:
            raise UserError(self._told(self._trouble))

    @property
    def failed(self) -> bool:
        """Whether something could not be written."""
        return self._trouble is not None

    def begin(self, iteration: int, best: bool, result: RunResult) -> None:
        """Go on after `iteration`: undo or complete what a killed run left half done.

        Args:
            best: the state of `iteration` is the best so far.
            result: what result.json holds then.
        """
        if not self._active:
            return
        self._saved = iteration or None
        names = self._folder.names()
        for name in [*filter(UNFINISHED.match, names), *folder.state_names(self._folder)[2:]]:
            self._folder.remove(name)
        if best and folder.state_name(iteration) in names:
            self._folder.copy(folder.state_name(iteration), folder.BEST)
        kept = [row for row in folder.read_metrics(self._folder) if row["iteration"] <= iteration]
        self._metrics.begin([folder.metrics_line(row) for row in kept])
        if iteration and folder.read_result(self._folder).get("last_iteration") != iteration:
            folder.write_result(self._folder, result)

    def log(self, row: Row) -> None:
        """Add a row to metrics.jsonl; in a store it gets there with the next state."""
        if not self._active or self.failed:  # after half a line, no other line
            return
        try:
            self._metrics.add(folder.metrics_line(row))
        except OSError as error:
            self._trouble = error

    def save(self, state: dict[str, Any], best: bool, result: RunResult) -> None:
        """Save a state and what result.json holds then. The caller may go on to change the state at once."""
        if not self._active:
            return
        self.settle()
        started = time.perf_counter()
        if not self.failed:
            lines = len(self._metrics)
            self._writing = self._thread.submit(self._write, copied(state), best, dict(result), lines)
        self.wait_seconds += time.perf_counter() - started

    def settle(self) -> None:
        """Wait until the last state is on disk."""
        started = time.perf_counter()
        self._wait()
        self.wait_seconds += time.perf_counter() - started

    def _write(self, state: dict[str, Any], best: bool, result: RunResult, lines: int) -> None:
        started = time.perf_counter()
        self._metrics.keep(lines, whole=result["status"] == "completed")
        checkpoint.save(state, self._folder)
        before, self._saved = self._saved, state["iteration"]
        folder.keep_state(self._folder, state["iteration"], best, before)
        folder.write_result(self._folder, result)
        self.write_seconds += time.perf_counter() - started

    def _wait(self) -> None:
        try:
            if self._writing:
                self._writing.result()
        except OSError as error:
            self._trouble = error

    def _told(self, error: OSError) -> str:
        last = folder.state_name(self._saved) if self._saved else None
        on = f"; {self._folder.at(last)} is whole: mend this and give the same command again" if last else ""
        return f"out_dir={self._folder.where}: {folder.why(error)}{on}"


def copied(value: Any) -> Any:
    """`value` with every tensor in it copied to the CPU's memory."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: copied(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(copied, value))
    return value
