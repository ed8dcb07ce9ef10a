"""popgpt trains small character-level GPTs on line tasks and scores them by generated exact match."""

import os
import sys

__version__ = "0.1.0"


def _end_quietly_until_run() -> None:
    """Have Ctrl-C and SIGTERM end this process in one line, until `program.run` takes over.

    The imports before that take a while, in which Python would answer with a traceback.
    """
    # What `signal` is made of. That one imports enum first, some milliseconds in which a signal may come.
    import _signal  # type: ignore[import-not-found]

    def end(number: int, frame: object) -> None:
        try:
            os.write(2, b"interrupted\n")
        finally:
            os._exit(128 + number)

    for number in (_signal.SIGINT, _signal.SIGTERM):
        if _signal.getsignal(number) is not _signal.SIG_IGN:
            _signal.signal(number, end)


# `python -m popgpt.X` imports this package first, and until it has found X its name stands in place of the arguments'
# first. Where popgpt is a library, signals are the program's own.
if sys.argv[0] == "-m" and sys.orig_argv[-len(sys.argv)].removeprefix("-m").startswith("popgpt."):
    _end_quietly_until_run()

# Before torch loads OpenMP: threads that wait for each other in a busy loop for long stand still together as soon as
# another program wants a core (docs/performance.md).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
