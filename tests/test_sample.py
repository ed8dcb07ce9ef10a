"""Asking a run: arguments that cannot be, prompts of all kinds, and lines of standard input."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from popgpt import sample, train
from popgpt.config import dump_yaml
from popgpt.text.errors import UserError
from tests.conftest import TINY


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> str:
    """The folder of a tiny run."""
    folder = tmp_path_factory.mktemp("sample")
    values = {**TINY, "out_dir": str(folder / "out"), "data_dir": str(shared_data)}
    (folder / "tiny.yaml").write_text(dump_yaml(values))
    assert train.main([str(folder / "tiny.yaml"), "--local"]) == 0
    return str(folder / "out")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--temperature", "nan"], "--temperature=nan should be a finite number, at least 0"),
        (["--temperature", "inf"], "--temperature=inf should be a finite number, at least 0"),
        (["--temperature", "-0.1"], "--temperature=-0.1 should be a finite number, at least 0"),
        (["--max-new-tokens", "-1"], "--max-new-tokens=-1 should be at least 1"),
        (["--max-new-tokens", "0"], "--max-new-tokens=0 should be at least 1"),
        (["--seed", "-1"], f"--seed=-1 should be at least 0 and less than {2**63}"),
        (["--seed", str(10**20)], f"--seed={10**20} should be at least 0 and less than {2**63}"),
    ],
)
def test_an_argument_that_cannot_be_is_one_line(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as refused:
        sample.main(["nowhere", *words])
    assert str(refused.value) == said


def test_a_tiny_temperature_takes_the_likeliest(trained: str, capsys: pytest.CaptureFixture[str]) -> None:
    answers = []
    for temperature in ("0", "1e-300", "1e-30", "1e-5", "1e300"):
        assert sample.main([trained, "12+7=", "--temperature", temperature]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] == answers[2] == answers[3]


def test_a_bad_line_is_told_and_the_others_are_answered(
    trained: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = "\ufeff1+1=\r\nz=\n\n".encode() + b"\xff=\n" + b"1" * 99 + b"\n22-3\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given), encoding="ascii"))
    assert sample.main([trained]) == 2
    output = capsys.readouterr()
    assert [line.partition("=")[0] for line in output.out.splitlines()] == ["1+1", "22-3"]
    told = output.err.splitlines()
    assert [line.partition(": ")[2].partition(": ")[0] for line in told] == ["line 2", "line 4", "line 5"]
    assert all(line.startswith("error: ") for line in told)


@contextlib.contextmanager
def piped() -> Iterator[tuple[TextIO, int]]:
    """A stream that reads a pipe, of another encoding than what is written, and the end to write to."""
    reads, writes = os.pipe()
    with os.fdopen(reads, encoding="latin-1") as stream:
        yield stream, writes


@pytest.mark.parametrize("options", [[], ["--temperature", "0.8", "--seed", "3"]])
def test_answers_do_not_depend_on_what_came_together(
    trained: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """Nor on whether prompts are arguments or lines, and they stand in the order of the prompts."""
    prompts = [f"{n}{'+-'[n % 2]}{7 * n % 89}" for n in range(sample.BATCH + 50)]
    assert sample.main([trained, *prompts, *options]) == 0
    expected = capsys.readouterr().out
    assert [line.partition("=")[0] for line in expected.splitlines()] == prompts

    written = "\n".join(prompts).encode()
    with piped() as (stream, writes), monkeypatch.context() as patch:
        patch.setattr("sys.stdin", stream)

        def write() -> None:
            os.write(writes, written)
            os.close(writes)

        writer = threading.Thread(target=write)
        writer.start()
        assert sample.main([trained, *options]) == 0
        writer.join()
    assert capsys.readouterr().out == expected


def test_no_line_waits_for_one_that_has_yet_to_come() -> None:
    with piped() as (stream, writes):
        arriving = sample._arriving(stream)
        os.write(writes, b"\xef\xbb\xbf1+1\r\n\n2+")
        assert next(arriving) == ["1+1", ""]
        os.write(writes, b"2\n" * 3)
        assert next(arriving) == ["2+2", "2", "2"]
        many = b"3\n" * (2 * sample.BATCH + 1)
        os.write(writes, many + "é".encode()[:1])
        assert [len(next(arriving)) for _ in range(3)] == [sample.BATCH, sample.BATCH, 1]
        os.write(writes, "é".encode()[1:] + b"\r4\r\xff")
        os.close(writes)
        assert list(arriving) == [["é", "4", "\udcff"]]


def test_what_is_no_option_is_a_prompt(trained: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-5+3=", "--seed", "2", "-1-1", "--temp=0", "--", "-5-2", "--seed", "-h"]
    assert sample.main([trained, *words]) == 2
    output = capsys.readouterr()
    assert [line.partition("=")[0] for line in output.out.splitlines()] == ["-5+3", "-1-1", "-5-2"]
    assert [line.partition(":")[2].partition(":")[0] for line in output.err.splitlines()] == [
        " prompt '--seed'",
        " prompt '-h'",
    ]
    for word in ("-h", "--help"):
        with pytest.raises(SystemExit) as ended:
            sample.main([trained, word])
        assert ended.value.code == 0
        assert "--temperature" in capsys.readouterr().out


def test_a_prompt_that_cannot_be_answered_is_told_and_the_others_are_answered(
    trained: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = ["1+1\n", "x=", "1" * 99, "\udcff", "\x1b[31m"]
    assert sample.main([trained, "1+1", *bad, "2+2="]) == 2
    output = capsys.readouterr()
    assert [line.partition("=")[0] for line in output.out.splitlines()] == ["1+1", "2+2"]
    said = [
        r"error: prompt '1+1\n': should be one line",
        "error: prompt 'x=': 'x' is not in the vocabulary",
        "error: prompt '1111",
        r"error: prompt '\udcff': not UTF-8",
        r"error: prompt '\x1b[31m': '\x1b' is not in the vocabulary",
    ]
    told = output.err.splitlines()
    assert len(told) == len(said)
    assert all(line.startswith(begin) for line, begin in zip(told, said, strict=True))
    assert "should have 1 to block_size=32 characters, not 100" in told[2]


def test_a_sweeps_folder_stands_for_its_winner(
    trained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(UserError, match="this sweep has no winner yet"):
        sample.main([str(tmp_path), "1+1="])
    shutil.copytree(trained, tmp_path / "best")
    assert sample.main([trained, "1+1="]) == sample.main([str(tmp_path), "1+1="]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second


def test_control_characters_of_an_answer_are_escaped_on_a_terminal_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = "a\t\x1b]0;t\x07\u202e=\x9b1"
    assert sample._show(["a"], ["a"], lambda _: [answer]) == 0
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert sample._show(["a"], ["a"], lambda _: [answer]) == 0
    assert capsys.readouterr().out == f"{answer}\na\t\\x1b]0;t\\x07\\u202e=\\x9b1\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_of_standard_input_are_those_of_a_file(end: str) -> None:
    text = end.join(["1", "", "2", "3"])
    for last in ("", end):
        stream = io.TextIOWrapper(io.BytesIO(f"\ufeff{text}{last}".encode()))
        assert [line for lines in sample._arriving(stream) for line in lines] == ["1", "", "2", "3"]
