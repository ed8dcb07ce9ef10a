"""`python -m popgpt.certify`: every prompt asked once, whatever stops it, with the same result by any workers."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from popgpt import certify, prepare, train
from popgpt.config import dump_yaml, load_config, merge
from popgpt.data.dataset import ensure_dataset
from popgpt.lines.text import kind_of
from popgpt.storage.folder import Folder
from popgpt.text.errors import UserError
from popgpt.training import certification
from popgpt.training.checkpoint import open_model, open_view_of
from popgpt.training.evaluation import answer_lines
from popgpt.training.folder import claimed
from popgpt.training.world import pick_device
from tests.conftest import TINY

FILES = {"certificate.json", "wrong.parquet"}
FEW = {"task": {"integer_digits": 1, "decimals": 0}, "train_lines": 100, "val_lines": 20, "test_lines": 20}
THREE_PARTS = {"task": {"decimals": 0}}
PATIENCE = 120


def trained(folder: Path, **over: Any) -> Path:
    """The folder of a tiny run."""
    values = {"out_dir": str(folder / "out"), "data_dir": str(folder / "data")}
    (folder / "run.yaml").write_text(dump_yaml(merge(TINY, {**values, **over})))
    assert train.main([str(folder / "run.yaml"), "--local"]) == 0
    return folder / "out"


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A run of 200 prompts, some of which it answers right."""
    more = {"max_iters": 60, "eval_interval": 60, "learning_rate": 0.01, "batch_size": 8, "d_model": 32}
    return trained(tmp_path, view="worked", **FEW, **more)


@pytest.fixture(scope="module")
def three_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20,000 prompts, which are three parts, certified."""
    out = trained(tmp_path_factory.mktemp("three"), **THREE_PARTS)
    assert certify.main([str(out), "--workers", "2"]) == 0
    return out


def contents(out: Path) -> dict[str, bytes]:
    """The files of a certificate."""
    return {path.name: path.read_bytes() for path in (out / "certificate").iterdir() if path.name != ".lock"}


def parts(out: Path) -> list[int]:
    return sorted(int(path.stem.split("-")[2]) for path in (out / "certificate").glob("part-*"))


def uncertified(out: Path, folder: Path) -> Path:
    """A folder with the checkpoint of a run, without its certificate."""
    shutil.copy(out / "ckpt.pt", folder)
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The parts that are asked."""
    parts: list[int] = []
    ask = certification._Worker.ask
    monkeypatch.setattr(certification._Worker, "ask", lambda worker, part: (parts.append(part), ask(worker, part)))
    return parts


def test_each_prompt_is_counted_where_it_belongs(few: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Against every pair of digits written here, asked as `evaluate` asks, and sought in the files of the dataset."""
    model, state = open_model(few, pick_device("cpu"))
    task = model.config.task
    prompts = [f"{a}{sign}{b}" for sign in "+-" for a in range(10) for b in range(10)]
    lines = [f"{prompt}={task.answer(prompt)}" for prompt in prompts]
    written, right = answer_lines(model, open_view_of(state), "=", lines)
    dataset = ensure_dataset(load_config(few.parent / "run.yaml"))
    found = {name: dataset.split(name).contains(prompts, task) for name in ("train", "val", "test")}
    splits = [next((name for name in found if found[name][i]), "none") for i in range(len(prompts))]
    rows = [
        {"kind": kind_of(line, "+-"), "prompt": prompt, "written": text, "answer": line.split("=")[1], "split": split}
        for prompt, line, text, split, hit in zip(prompts, lines, written, splits, right, strict=True)
        if not hit
    ]
    capsys.readouterr()
    assert certify.main([str(few), "--workers", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"iteration 60: {len(rows)} wrong of 200 prompts"
    table = parquet.read_table(few / "certificate" / "wrong.parquet").to_pylist()
    assert 0 < len(table) < 200
    assert sorted(table, key=lambda row: row["prompt"]) == sorted(rows, key=lambda row: row["prompt"])
    totals = json.loads((few / "certificate" / "certificate.json").read_text())
    assert (totals["prompts"], totals["wrong"], totals["iteration"]) == (200, len(rows), 60)
    assert totals["dataset_fingerprint"] == dataset.meta.fingerprint
    for key, column, names in (("by_operation", "kind", "+-"), ("by_split", "split", ("train", "val", "test", "none"))):
        wrong = {name: sum(row[column] == name for row in rows) for name in names}
        assert {name: part["wrong"] for name, part in totals[key].items()} == wrong
    assert {name: part["prompts"] for name, part in totals["by_split"].items()} == {
        name: splits.count(name) for name in ("train", "val", "test", "none")
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_what_is_stopped_goes_on_to_the_same_bytes(
    three_parts: Path, tmp_path: Path, asked: list[int], number: signal.Signals
) -> None:
    """By one worker, where the whole was made by two."""
    out = uncertified(three_parts, tmp_path)
    command = [sys.executable, "-m", "popgpt.certify", str(out), "--workers", "1"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE
    while not parts(out) and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(number)
    _, said = running.communicate(timeout=PATIENCE)
    if number == signal.SIGKILL:
        assert running.returncode == -number
    else:
        assert running.returncode == 128 + number
        assert re.fullmatch(
            r"[\d,]+ of 20,000 prompts, [\d,]+ wrong, [\d,]+ prompts/s, [\d:]+ left; the same command goes on\n"
            r"interrupted\n",
            said,
        )
    recorded = parts(out)
    assert 0 < len(recorded) < 3
    assert certify.main([str(out), "--workers", "1"]) == 0
    assert {*asked} | {*recorded} == {0, 1, 2}
    assert len(asked) + len(recorded) == 3
    assert contents(out) == contents(three_parts)
    assert contents(out).keys() == FILES


def test_a_certificate_that_is_there_is_told_and_another_checkpoint_s_is_replaced(
    three_parts: Path, tmp_path: Path, asked: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(three_parts)
    certify.main([str(three_parts / "ckpt.pt"), "--data-dir", "nowhere"])
    told = capsys.readouterr().out
    assert (asked, contents(three_parts)) == ([], before)
    folder = uncertified(three_parts, tmp_path) / "certificate"
    folder.mkdir()
    (folder / "certificate.json").write_text(json.dumps({**json.loads(before["certificate.json"]), "identity": "f"}))
    (folder / f"part-{'f' * 16}-0.parquet").write_bytes(before["wrong.parquet"])
    (folder / "notes.txt").touch()
    certify.main([str(tmp_path)])
    assert capsys.readouterr().out.replace(str(tmp_path), str(three_parts)) == told
    assert (sorted(asked), contents(tmp_path)) == ([0, 1, 2], {**before, "notes.txt": b""})


def test_the_answers_do_not_depend_on_how_many_are_asked_at_once(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, state = open_model(few, pick_device("cpu"))
    source, view = certification.all_prompts(model.config.task), open_view_of(state)

    def wrong(batch: int) -> list[dict[str, Any]]:
        monkeypatch.setattr("popgpt.model.generation.BATCH", batch)
        return certification.find_wrong(model, view, source, np.arange(len(source)), "=", "+-")

    found = wrong(200)
    assert 0 < len(found) < 200
    assert found == wrong(7) == wrong(1)


def test_prompts_that_the_view_does_not_hold_are_told_and_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`10+10=` has six characters, and there are 90 numbers with two digits."""
    out = trained(tmp_path, task={"decimals": 0, "operations": "+"}, block_size=5, max_iters=1, eval_iters=1)
    capsys.readouterr()
    certify.main([str(out)])
    assert "  8,100 prompts are wrong as view=plain can't hold them\n" in capsys.readouterr().out
    totals = json.loads((out / "certificate" / "certificate.json").read_text())
    assert (totals["not_held"], totals["wrong"] >= 8100, totals["prompts"]) == (8100, True, 10_000)
    rows = parquet.read_table(out / "certificate" / "wrong.parquet").to_pylist()
    assert {row["written"] for row in rows if len(row["prompt"]) == 5} == {None}


def test_a_worker_that_dies_is_one_line(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("popgpt.training.certification.sys.executable", "false")
    with pytest.raises(UserError, match=r"a worker ended by itself \(exit code 1\); the same command goes on"):
        certify.main([str(few)])


def test_a_checkpoint_that_changes_meanwhile_is_one_line(few: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("popgpt.training.certification.identify", lambda state: "0" * 64)
    with pytest.raises(UserError, match=r"ckpt\.pt has changed meanwhile: the same command starts anew"):
        certify.main([str(few)])


def test_another_certify_of_the_run_is_told(few: Path) -> None:
    with claimed(Folder(few / "certificate")), pytest.raises(UserError, match="in use by another run; wait for it"):
        certify.main([str(few)])


def test_what_cannot_be_asked_whole_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--workers=0 should be at least 1"):
        certify.main(["nowhere", "--workers", "0"])
    out = trained(tmp_path, task={"integer_digits": 6})
    with pytest.raises(
        UserError, match=r"make 200,000,000,000,000 different prompts, .* would take 634 years; score a"
    ):
        certify.main([str(out)])
    (out / "ckpt.pt").unlink()
    with pytest.raises(UserError, match=r"out: holds no ckpt\.pt"):
        certify.main([str(out)])


def test_a_task_of_own_lines_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lines.txt").write_text("".join(f"{n}={n + 1}\n" for n in range(600)))
    words = ["--from-text", "lines.txt", "--dataset", "mine", "--data-dir", "data", "--val-lines", "50"]
    prepare.main([*words, "--test-lines", "50"])
    values = {**TINY, "task": "text", "dataset": "mine", "data_dir": "data", "out_dir": "out"}
    values = {name: value for name, value in values.items() if name not in ("train_lines", "val_lines", "test_lines")}
    (tmp_path / "mine.yaml").write_text(dump_yaml(values))
    train.main(["mine.yaml", "--local"])
    with pytest.raises(UserError, match="task=text does not say which prompts there are"):
        certify.main(["out"])
    assert not (tmp_path / "out" / "certificate").exists()
