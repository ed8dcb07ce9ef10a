from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from popgpt import explain
from popgpt.text.errors import UserError
from tests.conftest import TINY


@pytest.fixture
def config(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({**TINY, "data_dir": str(shared_data), "n_embd": TINY["d_model"]}))
    return path


def explained(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    assert explain.main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def test_a_run_is_explained_without_being_run(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = explained(capsys, config, "learning_rate=0.01")
    lines = [line.strip() for line in text.splitlines()]
    assert [line.split()[1:] for line in lines if line.startswith("learning_rate=")] == [["command", "line"]]
    assert [line.split()[1:] for line in lines if line.startswith("min_lr=0.001")] == [["derived"]]
    assert [line.split()[1:] for line in lines if line.startswith("batch_size=4")] == [["file"]]
    assert "defaults: " in text
    assert "ms an iteration" in text
    assert "lines, " in text
    assert not (config.parent / "out").exists()


def test_rows_show_what_is_learned(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line.strip() for line in explained(capsys, config, "--no-probe").splitlines() if "⏎" in line]
    assert len(rows) == 3
    for row in rows:
        for line in row.split("⏎]")[:-1]:
            prompt, learned = line.split("=[")
            assert set(prompt) <= set("0123456789.+-")
            assert learned
    rows = [line.strip() for line in explained(capsys, config, "--no-probe", "mask_before_token=null").splitlines()]
    assert any(row.count("[") == row.count("⏎") > 1 and "=[" not in row for row in rows)


def test_lines_that_do_not_fit_are_counted(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = explained(capsys, config, "--no-probe", "block_size=9")
    assert re.search(
        r"  \d+ of 400 lines of train and \d+ of 60 lines of val are too long for block_size=9: left out ", told
    )
    with pytest.raises(UserError, match="block_size=2 holds no line of train"):
        explain.main([str(config), "block_size=2"])


def test_a_sweeps_budget_is_told(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = {
        "config": "tiny.yaml",
        "num_samples": 9,
        "space": {"learning_rate": {"loguniform": [1e-3, 1e-2]}},
        "asha": {"grace_period": 10, "reduction_factor": 3},
        "finalists": 2,
    }
    (config.parent / "space.yaml").write_text(yaml.safe_dump(space))
    text = explained(capsys, "space.yaml", "--no-probe", "max_iters=100")
    assert "sweep of 9 trials: 900 iterations if none were stopped" in text
    assert f"about {9 * 10 + 3 * 20 + 1 * 60 + 1 * 10} with ASHA's rungs at 10, 30, 90" in text
    assert "the last 4 of them proposed by TPE: 900 it" in explained(
        capsys, "space.yaml", "--no-probe", "max_iters=100", "search=optuna"
    )
    assert "at most 600 more for 2 finalists, trained to the end and with 2 more seeds" in text
    for said in (
        r"learning_rate=\S+ +swept",
        r"max_iters=100 +command line",
        r"best_by=\S+ +search space",
        r"batch_size=4 +file",
    ):
        assert re.search(said, text), said


def test_domains_and_the_mask_are_shown(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = {
        "learning_rate": {"loguniform": [1e-3, 1e-2]},
        "d_model": {"choice": [16, 32]},
        "d_head": {"divisors_of": "d_model", "between": [4, 16]},
        "bias": {"choice": [True, False], "when": {"d_model": [16, 32]}},
        "min_lr": 1e-4,
    }
    given = {"config": "tiny.yaml", "space": space, "asha": None, "num_samples": 2, "finalist_seeds": 0}
    (config.parent / "space.yaml").write_text(yaml.safe_dump(given, sort_keys=False))
    assert explain.main(["space.yaml", "--no-probe"]) == 0
    out, err = capsys.readouterr()
    for said in (
        "learning_rate  loguniform from 0.001 to 0.01",
        "d_model        choice of 16, 32",
        "d_head         divisors of d_model, from 4 to 16",
        "bias           choice of true, false, when d_model is 16 or 32",
        "masked are the characters of each line up to and including '='",
        "finalists, trained to the end\n",
    ):
        assert said in out
    assert err.startswith("warning: min_lr=0.0001 is the same for each learning_rate")
