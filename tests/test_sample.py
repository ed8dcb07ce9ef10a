"""Asking a run: arguments that cannot be, and lines of standard input."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from popgpt import sample, train
from popgpt.config import UserError, dump_yaml
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
        (["1+1=", "1+\n1="], r"prompt '1+\n1=' should be one line"),
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
