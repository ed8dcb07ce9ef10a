from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
import torch
import yaml

from popgpt import evaluate, sample, tracking, train
from popgpt.config import Config, load_config
from popgpt.data.dataset import Dataset, ensure_dataset
from popgpt.storage.folder import Folder
from popgpt.terminal import arguments
from popgpt.text.errors import UserError
from popgpt.training import checkpoint, folder
from popgpt.training.loop import fit
from popgpt.training.world import World
from tests.conftest import TINY
from tests.services import Inside

LOCAL = ["--local", "device=cpu"]


@pytest.fixture
def here(tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the tiny config in tiny.yaml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    values = {**TINY, "out_dir": "out", "data_dir": str(shared_data)}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def popgpt(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words],
        capture_output=True,
        text=True,
        timeout=600,
        **options,  # type: ignore[call-overload]
    )


def test_a_local_run_from_training_to_answers(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["tiny.yaml", *LOCAL]) == 0
    output = capsys.readouterr()
    assert "iteration 1/4  loss " in output.err
    assert "exact match" in output.err
    assert f"next: python -m popgpt.evaluate {here / 'out'} --split test" in output.out

    assert evaluate.main(["out", "--split", "test", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["split"], scores["exact_match_n"]) == ("test", 60)

    assert sample.main(["out", "1+2=", "3-4"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("1+2=")
    assert second.startswith("3-4=")


def test_lines_too_long_are_said_once_and_recorded(
    here: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    tiny = ["tiny.yaml", *LOCAL, "block_size=9"]
    meta = ensure_dataset(load_config("tiny.yaml")).meta
    long = {split: meta.count_longer(split, 9) for split in ("train", "val", "test")}
    assert all(0 < count < meta.lines[split] for split, count in long.items())
    assert train.main(tiny) == 0
    [said] = [record for record in caplog.messages if "too long" in record]
    assert said.startswith(
        f"{long['train']} of 400 lines of train and {long['val']} of 60 lines of val are too long for "
    )
    result = json.loads((here / "out" / "result.json").read_text())
    assert (result["lines_left_out"], result["exact_match_n"]) == ({"train": long["train"], "val": long["val"]}, 60)

    capsys.readouterr()
    assert evaluate.main(["out", "--split", "test"]) == 0
    assert f"{long['test']} of these lines are too long for the model's block_size" in capsys.readouterr().out
    Path("lines.txt").write_text("1+2=3\n10.5+22.25=32.75\n")
    assert evaluate.main(["out", "--file", "lines.txt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lines_too_long"] == 1


def test_scoring_a_file_tells_seen_from_unseen(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.main(["tiny.yaml", *LOCAL])
    dataset = ensure_dataset(load_config("tiny.yaml"))
    known, held_out = dataset.split("train").lines(0, 3), dataset.split("test").lines(0, 2)
    Path("lines.txt").write_text("\ufeff" + "\r\n".join([*known, *held_out]))
    capsys.readouterr()
    evaluate.main(["out", "--file", "lines.txt", "--json"])
    scores = json.loads(capsys.readouterr().out)
    assert (scores["exact_match_n"], scores["seen_in_training"], scores["unseen"]["exact_match_n"]) == (5, 3, 2)
    evaluate.main(["out", "--file", "lines.txt"])
    assert "3 of these prompts are in the training split" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1+1=2\n2+2\n", "line 2: '2+2' should be prompt=answer"),
        ("1+1=2\n2+2=\n", "line 2: '2+2=' should be prompt=answer"),
        ("a+b=c\n", "line 1: the model does not know 'a'"),
        ("", "holds no lines"),
    ],
)
def test_a_file_that_cannot_be_scored_is_refused(here: Path, text: str, said: str) -> None:
    train.main(["tiny.yaml", *LOCAL])
    Path("lines.txt").write_text(text)
    with pytest.raises(UserError) as refused:
        evaluate.main(["out", "--file", "lines.txt"])
    assert said in str(refused.value)


def test_a_run_is_not_written_over(here: Path) -> None:
    train.main(["tiny.yaml", *LOCAL])
    with pytest.raises(UserError, match="holds a finished run: continue it with init_from=resume and a larger max_it"):
        train.main(["tiny.yaml", *LOCAL])
    with pytest.raises(UserError, match=r"holds a finished run of seed=1337, not 1: continue it with init_from=resume"):
        train.main(["tiny.yaml", *LOCAL, "seed=1"])
    before = json.loads((here / "out" / "result.json").read_text())
    assert train.main(["tiny.yaml", *LOCAL, "init_from=resume", "max_iters=6"]) == 0
    after = json.loads((here / "out" / "result.json").read_text())
    assert (before["last_iteration"], after["last_iteration"]) == (4, 6)


@pytest.mark.parametrize("local", [True, False], ids=["local", "on Ray"])
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("init_from=resume", "new holds no run to resume; start one with init_from=scratch"),
        ("init_from=nowhere", "nowhere: no such file or folder"),
        ("init_from=tiny.yaml", "tiny.yaml: torn or altered, or not a popgpt checkpoint"),
        ("init_from=out and d_model=32", "d_model=32 should be 16, as in the checkpoint"),
        ("out_dir=out and init_from=resume and n_layer=2", "n_layer=2 should be 1, as in the checkpoint"),
        ("out_dir=out and init_from=resume and max_iters=3", "max_iters=3 should be at least 4, where the run is"),
        ("out_dir=tiny.yaml", "tiny.yaml: Not a directory"),
        ("out_dir=tiny.yaml/new", "tiny.yaml/new: Not a directory"),
        ("block_size=4", "block_size=4 holds no line of train"),
        ("mask_before_token=x", "mask_before_token='x'"),
        ("data_seed=2", "was built with data_seed=1, now it is data_seed=2"),
        ("task=text and dataset=mine", "mine: no such dataset; make it with"),
        ("dataset=calculator-new and train_lines=1000000 and task.integer_digits=1", "but these options make only"),
        ("device=cuda", "GPU"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_started_or_written(
    here: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch, word: str, said: str, local: bool
) -> None:
    def ray_starts(**options: object) -> None:
        raise AssertionError("Ray is started")

    monkeypatch.setattr(ray, "init", ray_starts)
    if "=out" in word:
        train.main(["tiny.yaml", *LOCAL])
    ensure_dataset(load_config("tiny.yaml"))
    before = set(here.rglob("*")) | set(shared_data.iterdir())
    words = ["device=cpu", "out_dir=new", *word.split(" and "), *(["--local"] if local else [])]
    with pytest.raises(UserError, match=re.escape(said)):
        train.main(["tiny.yaml", *words])
    assert set(here.rglob("*")) | set(shared_data.iterdir()) == before


@pytest.mark.parametrize("begun", [True, False], ids=["by its workers", "by another command"])
def test_a_run_that_is_completed_while_its_command_starts(
    here: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """Workers of a driver that was killed leave what it would have left; another command's run is not written over."""
    config = arguments.absolute(load_config("tiny.yaml", ["device=cpu"]))
    ready, alone = ensure_dataset(config), World(torch.device("cpu"))
    if begun:
        folder.write_config(config)
        fit(config, ready, alone, should_stop=lambda: True)

    def complete(config: Config) -> Dataset:
        folder.write_config(config)
        assert fit(config, ready, alone)["status"] == "completed"
        return ready

    monkeypatch.setattr("popgpt.data.dataset.ensure_dataset", complete)
    if begun:
        assert train.main(["tiny.yaml", *LOCAL]) == 0
    else:
        with pytest.raises(UserError, match="holds a finished run"):
            train.main(["tiny.yaml", *LOCAL])
    assert [row["iteration"] for row in folder.read_metrics(Folder("out"))] == [1, 2, 3, 4]


def test_a_run_is_in_mlflow_once_with_all_that_compares_it(
    here: Path, empty_store: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "mlflow.db").write_bytes(empty_store)
    flush = tracking.flush
    monkeypatch.setattr(tracking, "flush", lambda: flush(600))
    monkeypatch.setattr("popgpt.tracking.process.NICENESS", 0)
    words = ["tiny.yaml", *LOCAL, "mlflow_log=true", "experiment=sums", "block_size=9"]
    train.main([*words, "wandb_run_name=first"])
    train.main([*words, "init_from=resume", "max_iters=6"])
    from mlflow.tracking import MlflowClient

    assert tracking.tracking_uri() == f"sqlite:///{here / 'mlflow.db'}"
    client = MlflowClient(tracking.tracking_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("sums").experiment_id])
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert {*train.Config.model_fields, "task.name", "task.operations"} - {"task"} <= run.data.params.keys()
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train_loss")] == [1, 2, 3, 4, 5, 6]
    assert {"final_exact_match", "final_exact_match/add", "val_loss"} <= run.data.metrics.keys()
    left_out = json.loads((here / "out" / "result.json").read_text())["lines_left_out"]
    assert left_out["val"] > 0
    assert json.loads(run.data.tags["lines_left_out"]) == left_out
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert names == {"ckpt.pt", "config.yaml", "result.json"}


@pytest.mark.parametrize(
    "uri", ["http://user:c4n4ry@127.0.0.1:9", "http://127.0.0.1:9/?token=c4n4ry", "postgresql://u:c4n4ry@127.0.0.1/db"]
)
def test_a_password_of_mlflows_is_neither_printed_nor_kept(
    uri: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    for driver in ("psycopg", "psycopg2"):
        monkeypatch.setitem(sys.modules, driver, None)
    monkeypatch.setattr("popgpt.tracking.sender.TrackerProcess", Inside)
    monkeypatch.setattr("popgpt.tracking.run._senders", {})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert train.main(["tiny.yaml", *LOCAL, "mlflow_log=true"]) == 0
    printed = "".join(capsys.readouterr()) + caplog.text
    assert "MLflow " in printed
    kept = b"".join(path.read_bytes() for path in (here / "out").rglob("*") if path.is_file())
    assert b"127.0.0.1" in kept
    assert "c4n4ry" not in printed
    assert b"c4n4ry" not in kept


def test_a_long_wait_for_mlflow_is_said(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("popgpt.tracking.run._senders", {("mlflow", "somewhere"): None})
    monkeypatch.setattr(tracking, "flush", lambda: time.sleep(2.3))
    assert train.main(["tiny.yaml", *LOCAL]) == 0
    assert "sending to MLflow ..." in capsys.readouterr().err


@pytest.mark.parametrize("entry", ["train", "prepare"])
def test_a_mistake_is_one_line_and_exit_code_2(here: Path, entry: str) -> None:
    done = popgpt(f"popgpt.{entry}", "tiny.yaml", "learning_rte=1e-3", cwd=here)
    assert done.returncode == 2
    assert done.stderr == "error: command line: unknown parameter learning_rte=0.001; did you mean learning_rate?\n"
    assert done.stdout == ""


def test_what_does_not_go_together_is_refused(here: Path) -> None:
    with pytest.raises(UserError, match="min_workers=3 should be at most workers=2"):
        train.main(["tiny.yaml", "--workers", "3:2"])
    with pytest.raises(UserError, match="--local is one process; workers=2 needs Ray"):
        train.main(["tiny.yaml", *LOCAL, "--workers", "2"])
    with pytest.raises(UserError, match="workers='two' should be an integer"):
        train.main(["tiny.yaml", "--workers", "two"])


SIGNALLED = """
import signal
from popgpt import train
from popgpt.terminal import arguments, program
from popgpt.training.writer import RunWriter

log = RunWriter.log

def log_and_stop(writer, row):
    log(writer, row)
    if row["iteration"] == 5:
        signal.raise_signal({number})

RunWriter.log = log_and_stop
program.run(train.main)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_state_and_a_resume_ends_as_if_undisturbed(here: Path, number: int) -> None:
    words = ["tiny.yaml", *LOCAL, "max_iters=40", "eval_interval=10"]
    signalled = [sys.executable, "-c", SIGNALLED.format(number=int(number)), *words]
    done = subprocess.run(signalled, cwd=here, capture_output=True, text=True, timeout=600)
    assert done.returncode == 130, done.stderr
    assert done.stderr.count("stopping after this iteration; Ctrl-C again to stop at once\n") == 1
    assert "stopped at iteration 6; the same command goes on" in done.stdout
    assert json.loads((here / "out" / "result.json").read_text())["last_iteration"] == 6
    with pytest.raises(UserError, match=r"holds an unfinished run of learning_rate=0\.003, not 0\.001: continue"):
        train.main([*words, "learning_rate=0.001"])
    again = popgpt("popgpt.train", *words, cwd=here)
    assert again.returncode == 0
    assert f"going on with the run in {here / 'out'} after iteration 6\n" in again.stderr
    assert train.main([*words, "out_dir=whole"]) == 0
    ours, whole = (checkpoint.load(Folder(here / name), "state-40.pt")["model"] for name in ("out", "whole"))
    assert all((ours[name] == whole[name]).all() for name in ours)


def test_sampling_reads_prompts_from_standard_input(here: Path) -> None:
    train.main(["tiny.yaml", *LOCAL])
    done = popgpt("popgpt.sample", "out", cwd=here, input="1+1=\n\n22-3\n")
    assert done.returncode == 0, done.stderr
    assert [line.partition("=")[0] for line in done.stdout.splitlines()] == ["1+1", "22-3"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["popgpt.sample", "nowhere", "1+1="], "error: nowhere: no such file or folder"),
        (["popgpt.evaluate", "."], "error: .: holds no ckpt.pt; is it the folder of a run?"),
    ],
)
def test_a_run_that_is_not_there_is_said_in_one_line(here: Path, words: list[str], said: str) -> None:
    done = popgpt(*words, cwd=here)
    assert (done.returncode, done.stderr) == (2, f"{said}\n")
