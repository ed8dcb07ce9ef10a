"""How an entry point ends: exit code, what is said, and streams that fail."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from popgpt.config import make_config
from popgpt.terminal.progress import TrainingProgress, Unbreakable, stop_on_interrupt

ROW = {"iteration": 1, "train_loss": 1.0, "lines": 8, "train_seconds": 0.1, "learning_rate": 1e-3}
PATIENCE = 600.0
RUN = """
import signal, sys, time
from popgpt.terminal import arguments, program
def main(argv):
    {body}
program.run(main)
"""


ENTRIES = ["train", "tune", "prepare", "evaluate", "sample", "explain", "track", "report"]
SITE = """
import os, signal, sys
class Import:
    left = int(os.environ["AT"])
    def find_spec(self, name, path, target=None):
        if "popgpt" in sys.modules:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), int(os.environ["SIGNAL"]))
sys.meta_path.insert(0, Import())
"""
HOSTILE = "\x1b]0;t\x07\r\x9b2J\u202e\udcff"
SHOWN = r"\x1b]0;t\x07\r\x9b2J\u202e\udcff"


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
        ("raise program.UserError('this\\nthat')", 2, "error: this\nerror: that\n"),
        ("open('/nowhere/at/all')", 1, "error: /nowhere/at/all: No such file or directory\n"),
        ("raise OSError('odd')", 1, "error: odd\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
        ("sys.exit(2)", 2, ""),
    ],
)
def test_an_ending_has_its_exit_code_and_no_traceback(body: str, code: int, said: str) -> None:
    done = ended(body.replace("\n", "\\n"))
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise program.UserError(f'{hostile}=1 is unknown')", f"error: {SHOWN}=1 is unknown"),
        ("open('/nowhere/' + hostile[:6] + chr(10))", rf"error: /nowhere/{SHOWN[:12]}\n: No such"),
        ("open('/nowhere/' + hostile)", f"error: /nowhere/{SHOWN}: cannot be written in ascii; set PYTHONUTF8=1"),
        ("logging.getLogger('popgpt.x').warning('of %s', hostile)", f"warning: of {SHOWN}"),
        (
            "arguments.config_parser('x', '').parse_args(['x', '--' + hostile])",
            f"x: error: unrecognized arguments: --{SHOWN}",
        ),
        ("print(hostile[-2:] + chr(0xe9), file=sys.stderr)", r"\u202e\udcff\xe9"),
        ("raise program.UserError('a' * 2000 + 'z')", "error: aaaa"),
    ],
)
def test_what_is_said_has_no_control_characters(body: str, said: str) -> None:
    """Nor what a stream of another encoding cannot take, nor more than 1,000 characters a line."""
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = ended(f"import logging; hostile = {HOSTILE!a}; {body}", env=ascii_only)
    assert "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]
    assert said in line
    assert line.isascii()
    assert line.isprintable()
    assert len(line) <= 1000


def test_streams_take_any_text() -> None:
    both = entry("print('é⏎'); print('é⏎', file=sys.stderr)")
    for encoding, text in (("ascii", rb"\xe9\u23ce"), ("latin-1", b"\xe9\\u23ce"), ("utf-8", "é⏎".encode())):
        outer = {**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"}
        done = subprocess.run(both, capture_output=True, timeout=PATIENCE, env=outer)
        assert (done.returncode, done.stdout, done.stderr) == (0, text + b"\n", text + b"\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_work_ends_quietly(number: signal.Signals, tmp_path: Path) -> None:
    """It comes with the first import of popgpt, or a later one, of each entry point; from the 200th on some have done
    all that they do here, which is to complain.
    """
    (tmp_path / "sitecustomize.py").write_text(SITE)
    outer = {**os.environ, "SIGNAL": str(int(number)), "PYTHONPATH": str(tmp_path)}
    for place, name in enumerate(ENTRIES):
        at = str([1, 2, 10, 40, 90, 150, 200, 250][(place + number) % 8])
        words = ["sync", "nowhere"] if name == "track" else ["nowhere"]
        done = subprocess.run(
            [sys.executable, "-m", f"popgpt.{name}", *words], capture_output=True, text=True, env={**outer, "AT": at}
        )
        assert "Traceback" not in done.stderr, (name, at)
        if int(at) < 200 or done.returncode != 2:
            assert (done.returncode, done.stderr) == (128 + number, "interrupted\n"), (name, at)


def test_a_program_that_imports_popgpt_keeps_its_handlers(tmp_path: Path) -> None:
    told = "import popgpt, signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text(told)
    (tmp_path / "mine" / "__main__.py").write_text("")
    ways = (["-c", told], ["-m", "mine"], ["-m", "mine", "-m", "popgpt.train"])
    for way in ways:
        done = subprocess.run([sys.executable, *way], capture_output=True, text=True, cwd=tmp_path)
        assert (done.stdout, done.stderr) == ("True\n", "")


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
def test_a_signal_in_a_destructor_is_not_lost(number: signal.Signals) -> None:
    done = ended(f"""
    class Last:
        def __del__(self): signal.raise_signal({int(number)})
    Last()
    time.sleep(300)""")
    assert (done.returncode, done.stderr) == (128 + number, "interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_work_does_not_change_the_exit_code(number: signal.Signals) -> None:
    done = ended(f"import atexit, signal; atexit.register(signal.raise_signal, {int(number)}); return 3")
    assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        ("raise program.Stopped", 130, "interrupted\n"),
        ("raise program.UserError('x')", 2, "error: x\n"),
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
    program.say, signal.signal, program._exit = map(before, (program.say, signal.signal, program._exit))
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
from popgpt.terminal import arguments, program
heed = signal.signal
signal.signal = lambda one, handler: (heed(one, handler), one == {int(number)} and signal.raise_signal(one))
program.run(lambda argv: 0)
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
    command = [sys.executable, "-m", "popgpt.tasks.dates"]
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
    assert ended("raise program.UserError('x')", stderr=writes).returncode == 2
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
