"""How an entry point ends: exit code, what is said, and streams that fail."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from popgpt.config import make_config
from popgpt.progress import SweepProgress, TrainingProgress, Unbreakable, describe_budget, stop_on_interrupt

ROW = {"iteration": 1, "train_loss": 1.0, "lines": 8, "train_seconds": 0.1, "learning_rate": 1e-3}
PATIENCE = 600.0
RUN = """
import signal, sys, time
from popgpt import cli
def main(argv):
    {body}
cli.run(main)
"""


def entry(body: str) -> list[str]:
    return [sys.executable, "-c", RUN.format(body=body)]


def ended(body: str, **streams: object) -> subprocess.CompletedProcess[str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    return subprocess.run(entry(body), text=True, timeout=PATIENCE, **streams)  # type: ignore[call-overload]


def test_what_breaks_while_python_is_taken_down_changes_nothing() -> None:
    """As a thread of Ray's may; what was registered to be done at the end is."""
    crash = "import atexit, os; atexit.register(print, 'registered'); "
    crash += "sys.at_the_end = type('Crash', (), {'__del__': lambda self: os.abort()})(); return 3"
    result = ended(crash)
    assert (result.returncode, result.stdout, result.stderr) == (3, "registered\n", "")


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        ("return 0", 0, ""),
        ("print('told')", 0, ""),
        ("raise cli.UserError('this\\nthat')", 2, "error: this\nerror: that\n"),
        ("open('/nowhere/at/all')", 1, "error: /nowhere/at/all: No such file or directory\n"),
        ("raise OSError('odd')", 1, "error: odd\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("sys.exit(2)", 2, ""),
    ],
)
def test_an_ending_has_its_exit_code_and_no_traceback(body: str, code: int, said: str) -> None:
    done = ended(body.replace("\n", "\\n"))
    assert (done.returncode, done.stderr) == (code, said)


def test_a_mistake_in_the_program_keeps_its_traceback() -> None:
    done = ended("raise ZeroDivisionError")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "wait",
    [
        "time.sleep(300)",
        "exec('import time; time.sleep(300)')",
        "exec('try:\\n time.sleep(300)\\nexcept BaseException:\\n raise ImportError')",
    ],
)
def test_a_signal_ends_quietly_with_its_exit_code(number: signal.Signals, wait: str) -> None:
    body = f"print('ready', flush=True); {wait}".replace("\n", "\\n")
    process = subprocess.Popen(entry(body), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (128 + number, "interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_work_does_not_change_the_exit_code(number: signal.Signals) -> None:
    done = ended(f"import atexit, signal; atexit.register(signal.raise_signal, {int(number)}); return 3")
    assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        ("raise cli.Stopped", 130, "interrupted\n"),
        ("raise cli.UserError('x')", 2, "error: x\n"),
        ("return 3", 3, ""),
    ],
)
def test_a_signal_while_the_outcome_is_told_changes_nothing(
    number: signal.Signals, ending: str, code: int, said: str
) -> None:
    """It comes before each call that is made then."""
    body = f"""
    def before(call):
        def both(*arguments):
            signal.raise_signal({int(number)})
            return call(*arguments)
        return both
    cli.say, signal.signal, cli._leave = map(before, (cli.say, signal.signal, cli._leave))
    {ending}
    """
    done = ended(body)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_what_the_first_left_to_do(number: signal.Signals) -> None:
    body = f"""
    try:
        signal.raise_signal({int(number)})
    finally:
        signal.raise_signal({int(number)})
        time.sleep(300)
    """
    done = ended(body)
    assert (done.returncode, done.stderr) == (128 + number, "interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_right_before_the_work_is_one_that_ends_it(number: signal.Signals) -> None:
    code = f"""
import signal
from popgpt import cli
heed = signal.signal
signal.signal = lambda one, handler: (heed(one, handler), one == {int(number)} and signal.raise_signal(one))
cli.run(lambda argv: 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (128 + number, "interrupted\n")


@pytest.mark.parametrize("body", ["print('x' * 10**6)", "print('x')", "print('x', flush=True)"])
def test_output_that_nobody_reads_ends_quietly(body: str) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    done = ended(body, stdout=writes)
    os.close(writes)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_generator_of_lines_that_nobody_reads_on_ends_quietly() -> None:
    command = [sys.executable, "-m", "popgpt.data.dates"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        first = process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    assert (first, process.returncode, said) == ("1 January 1900=1900-01-01\n", 141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("body", ["print('x')", "print('x', flush=True)", "print('x' * 10**6)"])
def test_a_full_disk_is_one_line(body: str) -> None:
    with open("/dev/full", "w") as full:
        done = ended(body, stdout=full)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith("No space left on device\n")
    assert done.stderr.count("\n") == 1


def test_errors_that_nobody_reads_keep_their_exit_code() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    assert ended("raise cli.UserError('x')", stderr=writes).returncode == 2
    os.close(writes)


class Broken:
    """A terminal or a pipe that is gone."""

    def __init__(self, terminal: bool):
        self.terminal = terminal
        self.attempts = 0

    def write(self, text: str) -> int:
        self.attempts += 1
        raise BrokenPipeError

    flush = write  # type: ignore[assignment]

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("terminal", [False, True])
def test_training_goes_on_where_nobody_watches(terminal: bool, capsys: pytest.CaptureFixture[str]) -> None:
    broken = Broken(terminal)
    console = Console(file=broken, force_terminal=terminal)  # type: ignore[arg-type]
    with TrainingProgress(make_config({}), console) as progress:
        for iteration in range(1, 4):
            progress({**ROW, "iteration": iteration})
    assert broken.attempts == 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("terminal", [False, True])
def test_a_sweep_goes_on_where_nobody_watches(terminal: bool, capsys: pytest.CaptureFixture[str]) -> None:
    broken = Broken(terminal)
    console = Console(file=broken, force_terminal=terminal)  # type: ignore[arg-type]
    trial = {"id": "0000", "config": {"d_model": 64}, "status": "running", "reason": None, "metrics": []}
    sweep = SimpleNamespace(metric="exact_match", max_t=9)
    record = SimpleNamespace(runs={"0000": trial}, sweep=sweep, unfinished=lambda: ["0000"])
    with SweepProgress(record, console) as progress:  # type: ignore[arg-type]
        progress("0000", "started")
        progress("0000", "ended")
    assert broken.attempts == 1
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_row_is_shown_is_taken_as_any_other(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream is then at work, and may not be written to from within."""

    class Interrupted(io.FileIO):
        def write(self, data: Any, /) -> int:
            if not should_stop():
                signal.raise_signal(number)
            return super().write(data)

    with (
        io.TextIOWrapper(io.BufferedWriter(Interrupted(tmp_path / "stderr", "w"))) as stream,
        monkeypatch.context() as patch,
        stop_on_interrupt() as should_stop,
    ):
        patch.setattr(sys, "stderr", stream)
        with TrainingProgress(make_config({})) as progress:
            progress(ROW)
        assert should_stop()
    said, row = (tmp_path / "stderr").read_text().splitlines()
    assert said == "stopping after this iteration; Ctrl-C again to stop at once"
    assert row.startswith("iteration 1/")


def test_a_stream_that_works_is_written_to(capsys: pytest.CaptureFixture[str]) -> None:
    stream = Unbreakable(sys.stdout)
    assert stream.write("told") == 4
    stream.flush()
    assert capsys.readouterr().out == "told"
    assert stream.encoding == sys.stdout.encoding


def test_what_a_sweep_may_yet_spend() -> None:
    said = "1,200 iterations done, at most 5,000 left"
    assert describe_budget(1200, 5000, 0, 12.2) == f"{said}; 0:00:12 so far"
    assert describe_budget(1200, 5000, 500, 60) == f"{said}; 0:01:00 so far, at most 0:10:00 left"
