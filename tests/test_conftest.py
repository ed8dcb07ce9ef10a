"""The tests pass or fail alike whatever starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
HOSTILE = {
    **{"MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "RAY_ADDRESS": "127.0.0.1:1", "AWS_ENDPOINT_URL": "http://nowhere"},
    **{"COLUMNS": "20", "LINES": "3", "NO_COLOR": "1", "FORCE_COLOR": "1", "TERM": "dumb", "LC_ALL": "C"},
    **{"PYTHONIOENCODING": "ascii", "TZ": "Asia/Tokyo", "HTTP_PROXY": "http://127.0.0.1:1", "HOME": "/nowhere"},
}


def deafen() -> None:
    """As a shell's `&` and nohup leave it: Ctrl-C and the end of the terminal are not heard. Files are private."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
    os.umask(0o777)


def test_what_starts_pytest_changes_nothing() -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    told = ["tests/terminal/test_program.py::test_a_signal_ends_quietly_with_its_exit_code", "tests/test_docs.py"]
    done = subprocess.run(
        [*words, *told], cwd=ROOT, env={**os.environ, **HOSTILE}, preexec_fn=deafen, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
