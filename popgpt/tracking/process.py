"""The process that talks to one service: in the process that trains, its imports and requests would slow training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from popgpt.tracking.failure import failure
from popgpt.tracking.identity import Identity
from popgpt.tracking.tracker import Tracker

NICENESS = 19  # training comes first


@dataclass(eq=False)
class Operation:
    """One thing to record: `kind` is a method of `Tracker`, `data` its arguments after the run, as JSON takes them."""

    kind: str
    data: list[Any]
    tries: int = 0


class UnsentError(Exception):
    """An operation was not done.

    refused: asking again is in vain. answered: the service said so. replaced: the process that was asked has been
    killed for another.
    """

    def __init__(self, text: str, refused: bool = False, answered: bool = False, replaced: bool = False):
        super().__init__(text)
        self.refused = refused
        self.answered = answered
        self.replaced = replaced


def serve() -> None:
    """Run in the process: answer requests until standard input ends.

    The first line of standard input is the tracker and its address, which may hold a password and so is no argument;
    each further line is a request, which gets a line of standard output as its answer.
    """
    target, address = json.loads(sys.stdin.readline())
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    tracker: Tracker | None = None
    for line in sys.stdin:
        try:
            tracker = tracker or connect(target, address)
            answer = {"id": perform(tracker, json.loads(line))}
        except Exception as error:
            answer = failure(error)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def connect(target: str, address: str) -> Tracker:
    """Make the tracker that a TrackerSpec names as `module:class`."""
    module, _, name = target.partition(":")
    tracker: Tracker = getattr(import_module(module), name)(address)
    return tracker


def perform(tracker: Tracker, request: dict[str, Any]) -> Any:
    """Do what a request says: `kind`, a method of the tracker's, `run` and `data`, its arguments."""
    return getattr(tracker, request["kind"])(Identity(**request["run"]), *request["data"])


class TrackerProcess:
    """The process as its owner sees it. It ends with its owner.

    It runs at low priority while its owner trains, and at its owner's from `raise_priority` on, when it is waited for.
    """

    def __init__(self, target: str, address: str, replaceable: bool):
        """replaceable: another process may go on in its place, as it need not know the runs it has started."""
        self._arguments = [target, address]
        self._replaceable = replaceable
        self._process: subprocess.Popen[str] | None = None
        self._changing = threading.Lock()  # of a process's start and its priority
        self._raised = False
        self._replaced = False
        self._waited: tuple[float, float] | None = None  # `cpu_wait` of a process whose priority could not be raised

    def ask(self, run: Identity, operation: Operation) -> Any:
        """Have one operation done, by a process that is started first if there is none. Raises UnsentError."""
        request = {"kind": operation.kind, "data": operation.data, "run": asdict(run)}
        try:
            if self._process is None or self._process.poll() is not None:
                self.close()
                self._start()
            assert self._process
            assert self._process.stdin
            assert self._process.stdout
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except (OSError, ValueError) as error:
            raise UnsentError(str(error), replaced=self._replaced) from None
        if not line:
            raise UnsentError("the process that sends has ended", replaced=self._replaced)
        answer = json.loads(line)
        if "error" in answer:
            raise UnsentError(answer["error"], answer["refused"], answer["answered"])
        return answer["id"]

    def raise_priority(self) -> None:
        """Give the process its owner's own priority, from now on.

        To lower a niceness takes a privilege. Without it, `replace_if_starved` looks whether the process gets a core.
        """
        with self._changing:
            first, self._raised = not self._raised, True
            if first and self._process and self._process.poll() is None:
                try:  # its whole group: each thread has a priority of its own, and W&B's does the work in a child
                    os.setpriority(os.PRIO_PGRP, self._process.pid, os.getpriority(os.PRIO_PROCESS, 0))
                except OSError:
                    self._waited = cpu_wait(self._process.pid)

    def replace_if_starved(self) -> None:
        """Kill a process whose priority could not be raised and that mostly waited for a core since the last look.

        The next one starts at the owner's priority, and is asked again.
        """
        with self._changing:
            if (
                not self._replaceable
                or self._waited is None
                or self._process is None
                or self._process.poll() is not None
            ):
                return
            (then, before), now = self._waited, cpu_wait(self._process.pid)
            self._waited = now
            if now and now[1] - before > (now[0] - then) / 2:
                self._waited, self._replaced = None, True
                self._process.kill()

    def kill(self) -> None:
        """End the process at once, whatever it is at."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Close the pipes of a process that has ended, once nobody asks it any more."""
        for pipe in (self._process.stdin, self._process.stdout) if self._process else ():
            with suppress(OSError):
                if pipe:
                    pipe.close()

    def _start(self) -> None:
        root = str(Path(__file__).parents[2])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        with self._changing:
            self._replaced, self._waited = False, None
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from popgpt.tracking.process import serve; serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
                env={**os.environ, "PYTHONPATH": paths},
                process_group=0,  # Ctrl-C is for the run; what it leaves to say is still said
            )
            if not self._raised:
                with suppress(OSError):  # it has ended
                    niceness = max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0))
                    os.setpriority(os.PRIO_PROCESS, self._process.pid, niceness)
            assert self._process.stdin
            self._process.stdin.write(json.dumps(self._arguments) + "\n")


def cpu_wait(pid: int) -> tuple[float, float] | None:
    """Return the time, and the seconds that a process's main thread has waited for a core until now.

    Returns None where the system does not count them.
    """
    try:
        return time.monotonic(), int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None
