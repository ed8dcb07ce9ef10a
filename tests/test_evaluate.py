"""`python -m popgpt.evaluate --file`: which lines a file holds, which of them were seen, and what is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from popgpt import evaluate, train
from popgpt.config import load_config
from popgpt.data.dataset import ensure_dataset
from popgpt.text.errors import UserError
from tests.conftest import TINY


@pytest.fixture
def here(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in that holds a trained run in out."""
    monkeypatch.chdir(tmp_path)
    values = {**TINY, "out_dir": "out", "data_dir": str(shared_data)}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    train.main(["tiny.yaml", "--local", "device=cpu"])
    return tmp_path


def test_another_form_of_a_prompt_that_was_learned_was_seen(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = ensure_dataset(load_config("tiny.yaml"))
    lines = dataset.split("train").lines()
    sums = [line.partition("=") for line in lines if "+" in line and len(set(line.partition("=")[0].split("+"))) == 2]
    turned = ["+".join(reversed(prompt.split("+"))) + "=" + answer for prompt, _, answer in sums]
    fresh = [line for line in turned if line not in lines][:5]
    assert len(fresh) == 5
    Path("lines.txt").write_text("\n".join([*fresh, *dataset.split("test").lines(0, 2)]))
    capsys.readouterr()
    evaluate.main(["out", "--file", "lines.txt", "--json"])
    scores = json.loads(capsys.readouterr().out)
    assert (scores["seen_in_training"], scores["unseen"]["exact_match_n"]) == (5, 2)
    evaluate.main(["out", "--file", "lines.txt"])
    assert "5 of these prompts are in the training split, themselves or in the same" in capsys.readouterr().out


def test_another_dataset_is_named_where_it_was_opened(here: Path) -> None:
    config = load_config("tiny.yaml")
    ensure_dataset(config.model_copy(update={"data_dir": str(here / "d2"), "data_seed": 99}))
    with pytest.raises(UserError) as refused:
        evaluate.main(["out", "--data-dir", "d2"])
    assert str(refused.value).startswith("the dataset in d2/calculator is not the one this run was trained on")


def test_an_unknown_character_is_named_with_the_line_of_the_file(here: Path) -> None:
    Path("lines.txt").write_text("1+1=2\n\n\na+1=2\n")
    with pytest.raises(UserError, match="line 4: the model does not know 'a'"):
        evaluate.main(["out", "--file", "lines.txt"])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"1+1=2\n\n\nbad", "line 4: 'bad' should be prompt=answer"),
        (b"\r\n1+1=2\r\n\r\nbad\r\n", "line 4: 'bad' should be prompt=answer"),
        (b"1=2\n\n\xff=1\n", "line 3: not UTF-8"),
        (b"\n\n", "holds no lines"),
    ],
)
def test_lines_that_cannot_be_read_are_named(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes(data)
    with pytest.raises(UserError) as refused:
        evaluate.read_lines(path, "=")
    assert str(refused.value).startswith(f"{path}: {said}")


def test_lines_end_where_they_do_for_prepare(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes("\ufeffa\x0c=1\r\n\r\nb\u2028\x85=2\rc=3\r\r\nd=4\r".encode())
    assert evaluate.read_lines(path, "=") == {1: "a\x0c=1", 3: "b\u2028\x85=2", 4: "c=3", 6: "d=4"}


def test_a_missing_file_is_named_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        evaluate.read_lines(tmp_path / "nope", "=")
    assert str(refused.value) == f"{tmp_path / 'nope'}: No such file or directory"
