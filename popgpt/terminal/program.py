"""How a command runs and ends: what it prints, signals, one-line errors, exit codes."""

from __future__ import annotations

import atexit
import contextlib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

from popgpt.text.errors import UserError
from popgpt.text.printable import line as one_line
from popgpt.text.printable import printable
from popgpt.text.redaction import redacted

STOPPING = (signal.SIGINT, signal.SIGTERM)
RESEND_SECONDS = 0.01


class Stopped(KeyboardInterrupt):
    """A signal came. A KeyboardInterrupt itself, were it to pass through an exec (a dataclass that is imported), would
    make Python die of SIGINT in the end, whatever the exit code.
    """


def run(main: Callable[[Sequence[str] | None], int | None]) -> None:
    """Run an entry point, and exit: 0 done, 1 the system refused, 2 a mistake the user can mend, 128 + a signal's
    number (130 Ctrl-C, 143 SIGTERM, 141 nobody reads the output).
    """
    _escape_unencodable()
    _log_to_stderr()
    _exit(_outcome(main))


def _escape_unencodable() -> None:
    """Have stdout and stderr take any text: what is not in their encoding is written as a backslash escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _StopSignals:
    """Those that stop: each raises Stopped, until the outcome is settled."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self.decided = False
        self._numbers = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]

    def handle(self) -> None:
        sys.unraisablehook = self._resend
        for number in self._numbers:
            signal.signal(number, self._stop)

    def ignore(self) -> None:
        for number in self._numbers:
            signal.signal(number, signal.SIG_IGN)

    def _stop(self, number: int, frame: object) -> None:
        if not self.decided:
            self.received.append(number)
            raise Stopped

    def _resend(self, lost: sys.UnraisableHookArgs) -> None:
        """Send a signal again that came where Python cannot raise: in a destructor, or as an import's lock is freed.

        Another thread does it, a moment later: this one is still there.
        """
        if isinstance(lost.exc_value, Stopped):
            threading.Timer(RESEND_SECONDS, os.kill, (os.getpid(), self.received.pop())).start()
        else:
            sys.__unraisablehook__(lost)


class _StderrHandler(logging.Handler):
    """Prints what popgpt's modules log: `warning: ...`, and information as it is."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        for line in record.getMessage().split("\n"):
            say(prefix + line)


def _log_to_stderr() -> None:
    """Print to stderr what popgpt's modules log."""
    logger = logging.getLogger("popgpt")
    logger.setLevel(logging.INFO)
    logger.addHandler(_StderrHandler())


def _outcome(main: Callable[[Sequence[str] | None], int | None]) -> int:
    """The exit code of `main`, once what ended it is said."""
    signals = _StopSignals()
    try:
        try:
            signals.handle()
            return main(None) or 0
        finally:
            signals.decided = True  # not by a call, in which one more could come; what is left is to exit
            signals.ignore()
    except SystemExit as ending:
        if not isinstance(ending.code, int):
            raise
        return ending.code
    except (Exception, KeyboardInterrupt) as error:
        # An import that is interrupted may fail in its own way.
        if signals.received or isinstance(error, KeyboardInterrupt):
            say("interrupted")
            return 128 + (signals.received[0] if signals.received else signal.SIGINT)
        if isinstance(error, BrokenPipeError):
            return 128 + signal.SIGPIPE
        if not isinstance(error, UserError | OSError | UnicodeEncodeError):
            raise
        for line in _explain(error).split("\n"):
            say(f"error: {line}")
        return 1 if isinstance(error, OSError) else 2


def _explain(error: UserError | OSError | UnicodeEncodeError) -> str:
    if isinstance(error, UnicodeEncodeError):  # of a name that was given: streams take any text
        hint = "give text that is UTF-8" if error.encoding.startswith("utf") else "set PYTHONUTF8=1"
        return f"{printable(error.object)}: cannot be written in {error.encoding}; {hint}"
    if isinstance(error, UserError) or not error.strerror:
        return str(error) or type(error).__name__
    return f"{printable(str(error.filename))}: {error.strerror}" if error.filename else error.strerror


def say(line: str) -> None:
    """Print a line to stderr, where anybody still reads it, without the secrets that a library may have quoted."""
    with contextlib.suppress(OSError):
        print(one_line(redacted(line)), file=sys.stderr, flush=True)


def tell(line: str) -> None:
    """Print a line to stdout, at once."""
    print(printable(line), flush=True)


def _exit(code: int) -> NoReturn:
    """End this process. Python is not taken down: threads of libraries that still run (Ray's) may crash meanwhile."""
    atexit._run_exitfuncs()
    os._exit(_flushed(code))


def _flushed(code: int) -> int:
    """`code`, or that of an output that cannot be written to its end, which Python is kept from trying again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream:
                stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if stream is sys.stdout and not code:
                code = 128 + signal.SIGPIPE if isinstance(error, BrokenPipeError) else 1
                if code == 1:
                    say(f"error: standard output: {error.strerror}")
    return code
