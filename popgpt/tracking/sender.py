"""The queue of what is to be recorded by one tracker, and the thread that hands it to the tracker's process."""

from __future__ import annotations

import atexit
import logging
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from popgpt.tracking.identity import TrackingFile
from popgpt.tracking.process import Operation, TrackerProcess, UnsentError
from popgpt.tracking.tracker import TRACKERS

GATHER_SECONDS = 5.0
RETRY_SECONDS = (2.0, 60.0)
PATIENCE_SECONDS = 5.0
LOOK_SECONDS = 1.0
ARTIFACT_TRIES = 5
VALUES_A_CALL = 1000

Item = tuple[TrackingFile, Operation]


class Sender:
    """The thread that sends to one tracker.

    What fails because the service does not answer stays at the head of the queue and is tried again, later and later.
    What the service refuses is set aside.
    """

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.spec = TRACKERS[name]
        self.files: list[TrackingFile] = []  # of the runs that were given to it
        self._process = TrackerProcess(self.spec.tracker, address, replaceable=self.spec.backfills)
        self._queue: deque[Item] = deque()
        self._refused: list[Item] = []
        self._changed = threading.Condition()
        self._hurry = False
        self._failures = 0
        self._doubtful = False  # it did not answer before `hurry`, nor since
        self._warned = False
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"popgpt-{name}", daemon=True)
        self._thread.start()
        atexit.register(self._leave)

    def put(self, file: TrackingFile, operation: Operation) -> None:
        """Queue an operation."""
        with self._changed:
            if file not in self.files:
                self.files.append(file)
            self._queue.append((file, operation))
            self._changed.notify_all()

    def hurry(self) -> None:
        """Send at once, whatever pause is on."""
        with self._changed:
            self._doubtful, self._failures = self._failures > 0, 0
            self._hurry = bool(self._queue)
            self._changed.notify_all()
        self._process.raise_priority()

    def wait(self, deadline: float) -> bool:
        """Wait until the queue is empty, an attempt has failed, or `deadline` (monotonic seconds) has come.

        For a service that did not answer before, and still does not, the wait is shorter. Returns whether all was sent.
        Call `hurry` before.
        """
        with self._changed:
            patience = min(deadline, time.monotonic() + PATIENCE_SECONDS) if self._doubtful else deadline
            self._wait_for(lambda: self._is_idle() or not self._doubtful, patience)
            if not self._doubtful:
                self._wait_for(self._is_idle, deadline)
            sent = not self._queue and not self._refused
            late = self._queue[0][0] if self._queue and not self._failures else None
        if late:
            self._warn(late, "has not answered in time")
        return sent

    def _wait_for(self, condition: Callable[[], bool], deadline: float) -> None:
        """Wait for `condition` or `deadline`; meanwhile look whether the process that sends gets a core."""
        while (left := deadline - time.monotonic()) > 0:
            if self._changed.wait_for(condition, min(left, LOOK_SECONDS)):
                return
            self._process.replace_if_starved()

    def _is_idle(self) -> bool:
        return self._failures > 0 or not self._queue

    def save(self, file: TrackingFile) -> None:
        """Write a run's tracking.json, with what is still unsent if the tracker can't find that out by itself."""
        if not self.spec.backfills:
            with self._changed:
                left = [operation for owner, operation in (*self._refused, *self._queue) if owner is file]
            kept = [(operation.kind, operation.data) for operation in left if operation.kind not in ("start", "finish")]
            file.identity.unsent = {**file.identity.unsent, self.name: kept}
        file.save()

    def close(self) -> None:
        """Stop, and leave nothing behind. For a process that goes on; one that ends needs none of it."""
        while self._thread.is_alive():  # it may be starting the process
            self._stop()
            self._thread.join(0.1)
        self._process.close()
        atexit.unregister(self._leave)

    def _stop(self) -> None:
        with self._changed:
            self._closed = self._warned = True
            self._queue.clear()
            self._changed.notify_all()
        self._process.kill()

    def _leave(self) -> None:
        """At this process's end, stop: another process may send what is left."""
        if self._queue:
            self._stop()

    def _work(self) -> None:
        while not self._closed:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
            while self._attempt():
                pass
            with self._changed:
                self._changed.wait_for(lambda: self._hurry or self._closed, pause(self._failures))

    def _attempt(self) -> bool:
        """Send the head of the queue. Returns whether to go on at once: not if it is empty or nobody answers."""
        with self._changed:
            if not self._queue:
                return False
            self._hurry = False
            items = head(self._queue)
        try:
            self._send(items)
        except UnsentError as error:
            return self._handle_failure(error, items)
        self._remove(items)
        return True

    def _send(self, items: list[Item]) -> None:
        file, first = items[0]
        if first.kind == "start":
            self._start_run(file, first)
            return
        data = first.data if len(items) == 1 else [[value for _, operation in items for value in operation.data[0]]]
        self._process.ask(file.identity, Operation(first.kind, data))

    def _start_run(self, file: TrackingFile, operation: Operation) -> None:
        if file.parent:
            file.identity.parent = file.parent.identity.ids.get("mlflow")
        self.save(file)  # before the service has the run, so that its token is never lost
        (again,) = operation.data
        data = [file.folder.where if file.folder else None, again or operation.tries > 0]
        run_id = self._process.ask(file.identity, Operation("start", data))
        file.identity.ids = {**file.identity.ids, self.name: run_id}
        self.save(file)

    def _handle_failure(self, error: UnsentError, items: list[Item]) -> bool:
        """Set aside what is refused, keep the rest for later. Returns whether to go on at once."""
        file, first = items[0]
        first.tries += 1
        if error.replaced:
            return True
        refuses = f"refuses the {first.kind.rpartition('_')[2]} of {file.identity.name}"
        self._warn(file, f"{refuses if error.refused or error.answered else 'does not answer'} ({error})")
        if error.refused or (first.kind == "log_artifact" and first.tries == ARTIFACT_TRIES):
            with self._changed:
                self._refused += items
            self._remove(items)
            return True
        with self._changed:
            if first.kind == "log_artifact" and (file, first) in self._queue:
                self._queue.rotate(-1)
            if not self._hurry:  # or else it is one after this that was asked for
                self._failures += 1
                self._changed.notify_all()
            return self._hurry

    def _remove(self, items: list[Item]) -> None:
        with self._changed:
            for item in items:
                if item in self._queue:
                    self._queue.remove(item)
            self._failures, self._doubtful = 0, False
            self._changed.notify_all()

    def _warn(self, file: TrackingFile, what: str) -> None:
        """Warn once that something is amiss, and say what to do about it."""
        with self._changed:
            warned, self._warned = self._warned, True
        if warned:
            return
        while file.parent:
            file = file.parent
        remedy = "what is unsent at its end is kept for when it goes on"
        if self.spec.backfills and file.folder:
            command = f"python -m popgpt.track sync {shlex.quote(file.folder.where)}"
            remedy = f"what is unsent at its end, send by `{command}`"
        logging.getLogger("popgpt").warning("%s %s; the run goes on, and %s", self.spec.label, what, remedy)


def pause(failures: int) -> float:
    """Return the seconds between two attempts: time to gather a batch, or after failures twice as long each time."""
    return min(RETRY_SECONDS[0] * 2 ** (failures - 1), RETRY_SECONDS[1]) if failures else GATHER_SECONDS


def head(queue: Iterable[Item]) -> list[Item]:
    """Return what one call sends: the first of the queue and, after metrics, the same run's that fit the call too."""
    items = iter(queue)
    taken = [next(items)]
    file, first = taken[0]
    if first.kind != "log_metrics":
        return taken
    room = VALUES_A_CALL - len(first.data[0])
    for item in items:
        if item[0] is file:
            room -= len(item[1].data[0]) if item[1].kind == "log_metrics" else VALUES_A_CALL
            if room < 0:
                break
            taken.append(item)
    return taken
