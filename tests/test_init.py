"""A config and a search space for own lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from popgpt import init, prepare, train
from popgpt.config import load_config
from popgpt.sweep.draws import sample
from popgpt.sweep.space import load_sweep
from popgpt.text.errors import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, separator: str, count: int = 80) -> None:
    Path(name).write_text("".join(f"{number}a{separator}{number % 7}\n" for number in range(count)))


def test_lines_are_trained_on_by_what_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    write("my lines.txt", ":")
    assert init.main(["my lines.txt"]) == 0
    out = capsys.readouterr().out
    told = "python -m popgpt.prepare --from-text 'my lines.txt' --dataset my-lines --separator :"
    assert told in out
    assert "python -m popgpt.tune search_spaces/my-lines.yaml" in out
    sweep = load_sweep("search_spaces/my-lines.yaml")
    assert len(sample(sweep)) == sweep.num_samples
    assert sweep.config() == load_config("configs/my-lines.yaml").model_copy(update={"best_by": "exact_match"})
    prepare.main(["--from-text", "my lines.txt", "--dataset", "my-lines", "--separator", ":"])
    assert "train on it: python -m popgpt.train CONFIG task=text dataset=my-lines" in capsys.readouterr().out
    tiny = ["max_iters=2", "eval_interval=2", "d_model=16", "d_head=8", "n_layer=1", "mlflow_log=false", "device=cpu"]
    assert train.main(["configs/my-lines.yaml", "--local", *tiny]) == 0
    assert Path("out/my-lines/ckpt.pt").exists()


@pytest.mark.parametrize("longest", [3, 40, 300, 5000])
def test_the_longest_line_fits_in_a_row(longest: int) -> None:
    Path("lines.txt").write_text("".join(f"{'x' * (longest - 3)}{number}=1\n" for number in range(9)))
    init.main(["lines.txt", "--dataset", "n"])
    config = load_config("configs/n.yaml")
    assert config.block_size >= longest
    assert config.block_size * config.batch_size <= max(init.TOKENS, config.block_size)


def test_nothing_is_overwritten() -> None:
    write("a.txt", "=")
    Path("search_spaces").mkdir()
    Path("search_spaces/a.yaml").write_text("mine")
    with pytest.raises(UserError, match=r"^search_spaces/a\.yaml is there already; [^\n]*$"):
        init.main(["a.txt"])
    assert Path("search_spaces/a.yaml").read_text() == "mine"
    assert not Path("configs").exists()
    assert init.main(["a.txt", "--out", "there"]) == 0
    assert load_sweep("there/search_spaces/a.yaml").base["dataset"] == "a"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a b\nc d\n", "no usual separator is once in each line; give --separator"),
        ("a:b|c\nd:e|f\n", "':', '|' would do; give --separator"),
        ("", "no lines in it"),
        ("a=1\n=2\n", "unusable lines"),
    ],
)
def test_lines_that_can_not_be_told_are_refused(text: str, said: str) -> None:
    Path("a.txt").write_text(text)
    with pytest.raises(UserError) as refused:
        init.main(["a.txt"])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not Path("configs").exists()


def test_a_table_and_odd_names() -> None:
    Path("calculator.csv").write_text("prompt,answer\n" + "".join(f"{n},{n}\n" for n in range(30)))
    init.main(["calculator.csv"])
    assert load_config("configs/my-calculator.yaml").dataset == "my-calculator"
    write("010.txt", "=")
    init.main(["010.txt"])
    assert load_config("configs/010.yaml").dataset == "010"
    with pytest.raises(UserError, match="No such file"):
        init.main(["none.txt"])
