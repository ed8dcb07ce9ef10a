"""The queue of what is to be told to one service, and the thread that hands it to the process that talks to it."""

from __future__ import annotations

import atexit
import json
import logging
import os
import shlex
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from popgpt.tracking.identity import Identity
from popgpt.tracking.mlflow import METRICS_A_CALL

if TYPE_CHECKING:
    from popgpt.tracking.run import Run

GATHER_SECONDS = 5.0
RETRY_SECONDS = (2.0, 60.0)
PATIENCE_SECONDS = 5.0
LOOK_SECONDS = 1.0
ARTIFACT_TRIES = 5
NICENESS = 19  # training comes first
LABELS = {"mlflow": "MLflow", "wandb": "W&B"}


@dataclass(eq=False)
class Operation:
    """One thing to record: `kind` is start, earlier, metrics, tags, mark, artifact or finish, a method of the
    service's; `data` is its arguments, plain.
    """

    kind: str
    data: list[Any]
    tries: int = 0


Item = tuple["Run", Operation]


class UnsentError(Exception):
    """What the service, or nobody, answered. `refused`: it will not do to ask again. `answered`: the service did.
    `relieved`: nobody did, as the process that had asked has been replaced.
    """

    def __init__(self, text: str, refused: bool = False, answered: bool = False, relieved: bool = False):
        super().__init__(text)
        self.refused = refused
        self.answered = answered
        self.relieved = relieved


class Helper:
    """The process that talks to a service, as its owner sees it; it ends with its owner.

    It runs at low priority while its owner trains, and at the owner's own from `hasten` on, when it is waited for.
    """

    def __init__(self, service: str, uri: str):
        self._arguments = [service, uri]
        self._process: subprocess.Popen[str] | None = None
        self._changing = threading.Lock()  # of a process's start and its priority
        self._hastened = False
        self._relieved = False
        self._queued: tuple[float, float] | None = None  # of a process that stays last in line, as `queued` has it

    def ask(self, run: Identity, operation: Operation) -> Any:
        """Have one operation done; start the process first where there is none. Raises UnsentError."""
        request = {"kind": operation.kind, "data": operation.data, "run": asdict(run)}
        try:
            if self._process is None or self._process.poll() is not None:
                self.close()
                self._begin()
            assert self._process
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except (OSError, ValueError) as error:
            raise UnsentError(str(error), relieved=self._relieved) from None
        if not line:
            raise UnsentError("the process that sends has ended", relieved=self._relieved)
        answer = json.loads(line)
        if "error" in answer:
            raise UnsentError(answer["error"], answer["refused"], answer["answered"])
        return answer["id"]

    def hasten(self) -> None:
        """From now on the process is waited for: give it this process's own priority.

        To lower a niceness takes a privilege. Without it, `relieve` looks whether the process gets its turn.
        """
        with self._changing:
            first, self._hastened = not self._hastened, True
            if first and self._process and self._process.poll() is None:
                try:  # its whole group: each thread has a priority of its own, and W&B's does the work in a child
                    os.setpriority(os.PRIO_PGRP, self._process.pid, os.getpriority(os.PRIO_PROCESS, 0))
                except OSError:
                    self._queued = queued(self._process.pid)

    def relieve(self) -> None:
        """Replace a process that could not be hastened and has mostly waited for a core since the last look: the next
        one starts at this process's priority, and is asked again, as MLflow's may be. W&B's is left alone: nobody else
        knows the runs that it has begun.
        """
        with self._changing:
            if (
                self._arguments[0] != "mlflow"
                or self._queued is None
                or self._process is None
                or self._process.poll() is not None
            ):
                return
            (then, before), now = self._queued, queued(self._process.pid)
            self._queued = now
            if now and now[1] - before > (now[0] - then) / 2:
                self._queued, self._relieved = None, True
                self._process.kill()

    def stop(self) -> None:
        """End the process at once, whatever it is at."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Close what is left of a process that has ended, once nobody asks it any more."""
        for pipe in (self._process.stdin, self._process.stdout) if self._process else ():
            with suppress(OSError):
                if pipe:
                    pipe.close()

    def _begin(self) -> None:
        root = str(Path(__file__).parents[2])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        with self._changing:
            self._relieved, self._queued = False, None
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from popgpt.tracking.helper import main; main()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
                env={**os.environ, "PYTHONPATH": paths},
                process_group=0,  # Ctrl-C is for the run; what it leaves to say is still said
            )
            if not self._hastened:
                with suppress(OSError):  # it has ended
                    nicest = max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0))
                    os.setpriority(os.PRIO_PROCESS, self._process.pid, nicest)
            assert self._process.stdin
            self._process.stdin.write(json.dumps(self._arguments) + "\n")


def queued(pid: int) -> tuple[float, float] | None:
    """Now, and the seconds that a process's main thread has waited for a core until now; None where nobody counts."""
    try:
        return time.monotonic(), int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None


class Sender:
    """The thread that sends to one service. What fails because the service does not answer stays at the head of the
    queue and is tried again, later and later; what the service refuses is set aside in `Run.refused`.
    """

    def __init__(self, service: str, uri: str) -> None:
        self.service = service
        self.runs: list[Run] = []
        self._helper = Helper(service, uri)
        self._queue: deque[Item] = deque()
        self._changed = threading.Condition()
        self._hurry = False
        self._failures = 0
        self._doubtful = False  # it did not answer before `hurry`, nor since
        self._warned = False
        self._closed = False
        self._thread = threading.Thread(target=self._work, name=f"popgpt-{service}", daemon=True)
        self._thread.start()
        atexit.register(self._leave)

    def put(self, run: Run, operation: Operation) -> None:
        with self._changed:
            if run not in self.runs:
                self.runs.append(run)
            self._queue.append((run, operation))
            self._changed.notify_all()

    def hurry(self) -> None:
        """Send at once, whatever pause is on."""
        with self._changed:
            self._doubtful, self._failures = self._failures > 0, 0
            self._hurry = bool(self._queue)
            self._changed.notify_all()
        self._helper.hasten()

    def wait(self, deadline: float) -> bool:
        """Until the queue is empty, an attempt has failed, or `deadline` (monotonic seconds), which comes early for a
        service that did not answer and still does not. Whether all was sent. Call `hurry` before.
        """
        with self._changed:
            patience = min(deadline, time.monotonic() + PATIENCE_SECONDS) if self._doubtful else deadline
            self._wait_for(lambda: self._settled() or not self._doubtful, patience)
            if not self._doubtful:
                self._wait_for(self._settled, deadline)
            sent = not self._queue and not any(run.refused.get(self.service) for run in self.runs)
            late = self._queue[0][0] if self._queue and not self._failures else None
        if late:
            self._warn(late, "has not answered in time")
        return sent

    def _wait_for(self, true: Callable[[], bool], deadline: float) -> None:
        """Until `true`, or `deadline`; meanwhile look whether the process that sends gets its turn."""
        while (left := deadline - time.monotonic()) > 0:
            if self._changed.wait_for(true, min(left, LOOK_SECONDS)):
                return
            self._helper.relieve()

    def _settled(self) -> bool:
        return self._failures > 0 or not self._queue

    def unsent(self, run: Run) -> list[Operation]:
        """What still waits for a run, and what was refused."""
        with self._changed:
            return [*run.refused.get(self.service, []), *(o for owner, o in self._queue if owner is run)]

    def close(self) -> None:
        """Stop, and leave nothing behind. For those who go on; a process that ends needs none of it."""
        while self._thread.is_alive():  # it may be starting the helper
            self._stop()
            self._thread.join(0.1)
        self._helper.close()
        atexit.unregister(self._leave)

    def _stop(self) -> None:
        with self._changed:
            self._closed = self._warned = True
            self._queue.clear()
            self._changed.notify_all()
        self._helper.stop()

    def _leave(self) -> None:
        """At the process's end: what it has not sent is another's to send, and not its helper's any more."""
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
        """Send the head of the queue. Whether to go on at once: not where there is none, nor where nobody answers."""
        with self._changed:
            if not self._queue:
                return False
            self._hurry = False
            items = head(self._queue)
        run, first = items[0]
        try:
            self._send(run, first, items)
        except UnsentError as error:
            return self._after(error, items)
        self._remove(items)
        return True

    def _send(self, run: Run, first: Operation, items: list[Item]) -> None:
        data = first.data if len(items) == 1 else [[value for _, operation in items for value in operation.data[0]]]
        if first.kind == "start":
            if run.parent:
                run.identity.parent = run.parent.identity.ids.get("mlflow")
            run.keep()  # before the service has the run, so that its token is never lost
            data = [run.folder.where if run.folder else None, run.again or first.tries > 0]
        answer = self._helper.ask(run.identity, Operation(first.kind, data))
        if first.kind == "start":
            run.identity.ids = {**run.identity.ids, self.service: answer}
            run.keep()

    def _after(self, error: UnsentError, items: list[Item]) -> bool:
        run, first = items[0]
        first.tries += 1
        if error.relieved:
            return True
        in_vain = error.refused or (first.kind == "artifact" and first.tries == ARTIFACT_TRIES)
        refuses = f"refuses the {first.kind} of {run.identity.name}"
        self._warn(run, f"{refuses if error.refused or error.answered else 'does not answer'} ({error})")
        if in_vain:
            run.refused.setdefault(self.service, []).extend(operation for _, operation in items)
            self._remove(items)
            return True
        with self._changed:
            if first.kind == "artifact" and (run, first) in self._queue:
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

    def _warn(self, run: Run, what: str) -> None:
        """Say once that something is amiss, and what to do about it."""
        with self._changed:
            warned, self._warned = self._warned, True
        if warned:
            return
        while run.parent:
            run = run.parent
        remedy = "what is unsent at its end is kept for when it goes on"
        if self.service == "mlflow" and run.folder:
            remedy = f"what is unsent at its end, send by `python -m popgpt.track sync {shlex.quote(run.folder.where)}`"
        logging.getLogger("popgpt").warning("%s %s; the run goes on, and %s", LABELS[self.service], what, remedy)


def pause(failures: int) -> float:
    """Seconds between two attempts: time to gather a batch, or after failures twice as long each time."""
    return min(RETRY_SECONDS[0] * 2 ** (failures - 1), RETRY_SECONDS[1]) if failures else GATHER_SECONDS


def head(queue: Iterable[Item]) -> list[Item]:
    """The first of the queue and, where that is metrics, the metrics of the same run that fit in the same call."""
    items = iter(queue)
    taken = [next(items)]
    run, first = taken[0]
    if first.kind != "metrics":
        return taken
    room = METRICS_A_CALL - len(first.data[0])
    for item in items:
        if item[0] is run:
            room -= len(item[1].data[0]) if item[1].kind == "metrics" else METRICS_A_CALL
            if room < 0:
                break
            taken.append(item)
    return taken
