from __future__ import annotations

import json
import math
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch
import yaml

from popgpt import tracking, train, tune
from popgpt.cluster import session
from popgpt.config import load_config
from popgpt.data.dataset import ensure_dataset
from popgpt.data.meta import SPLITS
from popgpt.metrics.row import METRICS_FILE
from popgpt.storage.folder import Folder
from popgpt.sweep import journal, runner
from popgpt.sweep.draws import sample
from popgpt.sweep.events import Ended, Event, Paused, Reported, Started, Status
from popgpt.sweep.printing import example_prompt, print_result
from popgpt.sweep.record import Record, trial_config
from popgpt.sweep.recovery import recover_open_trials
from popgpt.sweep.search import propose
from popgpt.sweep.space import load_sweep
from popgpt.sweep.trial import Trial
from popgpt.sweep.winner import score_winner
from popgpt.text.errors import UserError
from popgpt.training.checkpoint import load_best
from popgpt.training.folder import WRITER_LOCK, claimed, read_metrics, state_names
from popgpt.training.loop import fit
from popgpt.training.world import World
from tests.conftest import TINY, KeptRay
from tests.nodes import (
    COORDINATOR,
    PATIENCE,
    WORKER,
    cluster,
    exposed,
    file_of,
    kill,
    listening,
    nothing_is_held,
    opened,
    pids,
    wait_for,
)
from tests.samples import sample_and_whole
from tests.sweep.test_tables import SPACES
from tests.sweep.test_tables import sweep as sweep_of

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")


@pytest.fixture
def here(
    tmp_path: Path, shared_data: Path, empty_store: bytes, shared_ray: KeptRay, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder to work in, with a tiny search space in space.yaml and an empty MLflow store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    base = {**TINY, "data_dir": str(shared_data), "max_iters": 9, "eval_interval": 1, "mlflow_log": True}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    space = {
        "config": "base.yaml",
        "out_dir": "sweep",
        "num_samples": 4,
        "space": {"learning_rate": {"loguniform": [1e-3, 1e-1]}, "d_model": {"choice": [8, 16, 20]}},
        "asha": {"grace_period": 1, "reduction_factor": 3},
        "finalists": 0,
    }
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    (tmp_path / "mlflow.db").write_bytes(empty_store)
    return tmp_path


def found(here: Path) -> dict[str, Any]:
    return journal.read(here / "sweep")


@pytest.mark.parametrize("rule", ["promote", pytest.param("stop", marks=pytest.mark.soak)])
def test_a_sweep_from_its_space_to_its_winner(
    here: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], rule: str
) -> None:
    if rule == "promote":
        request.getfixturevalue("own_ray")
    words = ["space.yaml", f"asha.rule={rule}"]
    assert tune.main(words) == 0
    output = capsys.readouterr()
    sweep = found(here)
    trials = {trial["id"]: trial for trial in sweep["trials"]}
    assert list(trials) == ["0000", "0001", "0002", "0003"]
    assert {trial["status"] for trial in trials.values()} <= {"completed", "stopped"}
    assert trials[sweep["best"]["id"]]["exact_match"] == max(trial["exact_match"] for trial in trials.values())
    for trial in trials.values():
        assert trial["config"]["d_model"] in (8, 16)
        assert [row["iteration"] for row in trial["metrics"]] == list(range(1, trial["iterations"] + 1))
        assert (trial["status"] == "completed") == (trial["iterations"] == 9)
        assert (trial["reason"] is None) == (trial["status"] == "completed")
    best = here / "sweep" / "best"
    assert {"ckpt.pt", "config.yaml", "metrics.jsonl", "result.json"} == {path.name for path in best.iterdir()}
    assert json.loads((best / "result.json").read_text())["iteration"] == sweep["best"]["iteration"]
    assert sweep["best"]["test"]["exact_match_n"] == 60
    assert not (here / "sweep" / "ray").exists()
    assert f"winner: trial {sweep['best']['id']}, on the test split: exact match" in output.out
    assert "mlflow ui --backend-store-uri sqlite:///" in output.out
    assert f"report: {here / 'sweep' / 'report.html'}" in output.out
    check_mlflow(trials, sweep["best"]["id"])

    with pytest.raises(UserError, match="holds a sweep already: go on with it by --resume"):
        tune.main([*words])
    assert tune.main([*words, "--resume", "--samples", "5", "mlflow_log=true"]) == 0
    more = found(here)["trials"]
    assert len(more) == 5
    assert [trial["metrics"] for trial in more[:4]] == [trial["metrics"] for trial in trials.values()]
    with pytest.raises(UserError, match=r"seed=1 was 0 when this sweep was started"):
        tune.main([*words, "--resume", "seed=1"])
    with pytest.raises(UserError, match=r"num_samples=4 makes 4 trials, but this sweep has 5"):
        tune.main([*words, "--resume"])
    assert (here / "sweep" / "sweep.json").exists()


@pytest.mark.slow
def test_a_sweep_by_promotion_that_is_interrupted_ends_as_one_that_never_was(
    here: Path, shared_ray: KeptRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted where a trial is held at a rung, and where one that was promoted runs."""
    words = ["space.yaml", "resources.max_concurrent=1", "d_model=8", "num_samples=5", "mlflow_log=false"]
    assert tune.main([*words, "out_dir=undisturbed"]) == 0
    never = json.loads((here / "undisturbed" / "sweep.json").read_text())
    apply, resume = Record.apply, []
    for interrupted_at in (Paused, Reported):

        def interrupted(record: Record, name: str, event: Event, at: type[Event] = interrupted_at) -> None:
            apply(record, name, event)
            goes_on = record.trials[name].metrics[-1]["iteration"] > 1 if not isinstance(event, Started) else False
            if isinstance(event, at) and (goes_on or at is Paused):
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(Record, "apply", interrupted)
            with pytest.raises(KeyboardInterrupt):
                tune.main([*words, *resume])
        shared_ray.close()  # a driver that ends takes its trials with it
        resume = ["--resume"]
        statuses = {trial["status"] for trial in found(here)["trials"]}
        assert "paused" in statuses
        assert statuses <= {"completed", "paused", "interrupted", "waiting"}
    assert tune.main([*words, *resume]) == 0
    sweep = found(here)
    assert timeless(sweep["trials"]) == timeless(never["trials"])
    assert sweep["asha"] == never["asha"]
    reasons = [trial["reason"] for trial in sweep["trials"] if trial["status"] == "stopped"]
    assert len(reasons) == 4
    assert all(reason.startswith("asha: rung ") and reason.endswith(", not promoted") for reason in reasons)

    assert tune.main([*words, *resume, "--samples", "9"]) == 0
    more = found(here)
    places = {rung: len(scores) for rung, scores in more["asha"]["scores"][0].items()}
    assert places["1"] == 9
    assert places["3"] >= 3, "of nine three go on, whichever they are"


@pytest.mark.slow
def test_finalists_are_trained_to_the_end_with_more_seeds(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["space.yaml", "finalists=2", "finalist_seeds=1", "d_model={choice: [8, 16]}"]
    assert tune.main(words) == 0
    output = capsys.readouterr()
    sweep = found(here)
    trials, repeats = ({each["id"]: each for each in sweep[kind]} for kind in ("trials", "repeats"))
    finalists = {each["id"]: each for each in sweep["finalists"]}
    assert repeats.keys() == {f"{name}-s1" for name in finalists}
    for name, finalist in finalists.items():
        assert [each["seed"] for each in finalist["seeds"]] == [1337, 1338]
        runs = [trials[name], repeats[f"{name}-s1"]]
        assert [each["exact_match"] for each in finalist["seeds"]] == [run["exact_match"] for run in runs]
        assert finalist["mean"] == sum(run["exact_match"] for run in runs) / 2
        for run in runs:
            assert (run["status"], run["reason"]) == ("completed", None)
            assert [row["iteration"] for row in run["metrics"]] == list(range(1, 10))
    went_on = [name for name in finalists if "stopped_by" in trials[name]]
    assert went_on, "ASHA lets one of four through, so one finalist was stopped and went on"
    best = sweep["finalists"][0]
    assert best["mean"] == max(each["mean"] for each in finalists.values())
    assert (sweep["best"]["id"], sweep["best"]["seed"]) == (best["id"], 1337)
    assert sweep["best"]["test"]["exact_match_n"] == 60
    assert json.loads((here / "sweep" / "best" / "result.json").read_text())["iteration"] == sweep["best"]["iteration"]
    assert load_config(here / "sweep" / "best" / "config.yaml").seed == 1337
    assert "chosen on the validation split by the mean of 2 seeds, scored once on the test split" in output.out
    assert not list((here / "sweep" / "trials").glob("*/state-*.pt"))
    assert len(list((here / "sweep" / "trials").glob("*/ckpt.pt"))) == 6
    check_mlflow(trials | repeats, best["id"])
    check_finalists_in_mlflow(finalists, went_on)


def check_finalists_in_mlflow(finalists: dict[str, Any], went_on: list[str]) -> None:
    """Tags say whose configuration a run has; one that went on is one run."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking.tracking_uri())
    runs = client.search_runs([client.get_experiment_by_name("calculator").experiment_id])
    tags = {run.data.tags.get("trial"): run.data.tags for run in runs}
    of = {name: each["finalist"] for name, each in tags.items() if "finalist" in each}
    assert of == {run["run"]: name for name, each in finalists.items() for run in each["seeds"]}
    assert {name for name, each in tags.items() if each.get("reason") == "went on as a finalist"} == set(went_on)


@pytest.mark.slow
def test_a_sweep_killed_between_trials_and_finalists_goes_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["space.yaml", "finalists=1", "finalist_seeds=1", "d_model=8", "num_samples=3", "mlflow_log=false"]

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    for where, arguments in (("Record.choose_finalists", []), ("runner.drop_states", ["--resume"])):
        with monkeypatch.context() as patched:
            patched.setattr(f"popgpt.sweep.{'record.' if 'Record' in where else ''}{where}", killed)
            with pytest.raises(KeyboardInterrupt):
                tune.main([*words, *arguments])
        before = found(here)
        for trial in before["trials"]:
            assert trial["status"] in ("completed", "stopped", "waiting")
            folder = here / "sweep" / "trials" / trial["id"]
            states = len(list(folder.glob("state-*.pt")))
            assert 1 <= states <= 2, "two where the last trial's process was ended before it could drop one"
            assert (folder / "ckpt.pt").exists()
    assert [repeat["status"] for repeat in before["repeats"]] == ["waiting"]
    finalist = before["finalists"][0]["id"]
    assert before["finalists"][0]["mean"] is None

    assert tune.main([*words, "--resume"]) == 0
    after = found(here)
    (result,) = after["finalists"]
    assert (result["id"], after["best"]["id"]) == (finalist, finalist)
    for run in (next(trial for trial in after["trials"] if trial["id"] == finalist), *after["repeats"]):
        assert run["status"] == "completed"
        assert [row["iteration"] for row in run["metrics"]] == list(range(1, 10))
    assert not list((here / "sweep" / "trials").glob("*/state-*.pt"))
    ready = (here / "sweep" / "best" / "ckpt.pt").stat().st_mtime_ns
    assert tune.main([*words, "--resume"]) == 0
    assert found(here)["best"] == after["best"]
    assert (here / "sweep" / "best" / "ckpt.pt").stat().st_mtime_ns == ready


@pytest.mark.slow
def test_ctrl_c_as_the_last_trial_ends_starts_no_finalist_and_is_heard_again_afterwards(
    here: Path, own_ray: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["space.yaml", "finalists=1", "finalist_seeds=1", "d_model=8", "num_samples=3", "mlflow_log=false"]
    handled, apply = [signal.getsignal(number) for number in SIGNALS], Record.apply

    def interrupted(record: Record, *event: Any) -> None:
        apply(record, *event)
        if not record.open_trials() and not record.finalists:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Record, "apply", interrupted)
        assert tune.main(words) == 130
    assert [signal.getsignal(number) for number in SIGNALS] == handled
    assert "go on with the same command and --resume" in capsys.readouterr().out
    sweep = found(here)
    assert {trial["status"] for trial in sweep["trials"]} <= {"completed", "stopped", "waiting"}
    assert [(repeat["status"], repeat["metrics"]) for repeat in sweep["repeats"]] == [("waiting", [])]
    assert not (here / "sweep" / "best").exists()

    with monkeypatch.context() as patched:
        patched.setattr(runner, "score_winner", lambda *_: [os.kill(os.getpid(), signal.SIGINT), time.sleep(PATIENCE)])
        with pytest.raises(KeyboardInterrupt):
            tune.main([*words, "--resume"])
    assert {run["status"] for run in (*found(here)["trials"], *found(here)["repeats"])} <= {"completed", "stopped"}
    assert tune.main([*words, "--resume"]) == 0
    assert json.loads((here / "sweep" / "best" / "result.json").read_text())["exact_match_n"] == 60


def test_a_winner_that_still_trains_is_crowned_with_what_it_comes_to(here: Path) -> None:
    """As the workers of a group may, where they hear later than the record that they are to stop."""
    sweep = load_sweep("space.yaml", ["num_samples=1", "best_by=val_loss", "metric=val_loss", "mlflow_log=false"])
    record, out_dir = Record(sweep, sample(sweep)), here / "sweep"
    config = trial_config(record, out_dir, "0000")
    dataset, seen, mirrored = ensure_dataset(config), threading.Event(), []
    out_dir.mkdir()

    def report(row: dict[str, Any]) -> None:
        if row["iteration"] == 2:
            record.apply("0000", Reported(read_metrics(Folder(config.out_dir))))
            record.apply("0000", Ended("asha: rung 2"))
            seen.set()
            time.sleep(0.5)

    def add_rows(name: str, rows: list[dict[str, Any]]) -> None:
        mirrored.append((name, [row["iteration"] for row in rows]))

    tracker: Any = SimpleNamespace(add_rows=add_rows)
    with beside(lambda: fit(config, dataset, World(torch.device("cpu")), report, wait_for_save=True)):
        seen.wait()
        winner = score_winner(record, out_dir, dataset, tracker)
    record.write(out_dir, winner)
    best, result = found(here)["best"], json.loads((out_dir / "best" / "result.json").read_text())
    at = load_best(out_dir / "best")["scores"]["iteration"]
    assert at > 2
    assert (best["iteration"], best["val_loss"]) == (result["iteration"], result["val_loss"])
    assert best["iteration"] == at == record.trials["0000"].metrics[-1]["iteration"]
    assert mirrored == [("0000", list(range(3, at + 1)))]


@pytest.mark.slow
def test_tpe_proposes_each_trial_from_those_before_it(here: Path) -> None:
    """One at a time, so what the record holds in the end is what each proposal rested on."""
    words = ["space.yaml", "search=optuna", "resources.max_concurrent=1"]
    words += ["points_to_evaluate=[{learning_rate: 2e-2, d_model: 8}]"]
    assert tune.main([*words, "num_samples=7"]) == 0
    seven = found(here)["trials"]
    check_mlflow({trial["id"]: trial for trial in seven}, found(here)["best"]["id"])
    assert tune.main([*words, "num_samples=8", "--resume"]) == 0
    trials = found(here)["trials"]
    assert trials[:7] == seven
    sweep = load_sweep(*words[:1], [*words[1:], "num_samples=8"])
    drawn = sample(sweep)
    assert trials[0]["config"] == sweep.points[0]
    for number, trial in enumerate(trials):
        assert trial["status"] in ("completed", "stopped")
        assert trial["config"] == propose(sweep, drawn, [Trial.from_json(each) for each in trials[:number]])
    assert [trial["config"] for trial in trials[:5]] == drawn[:5]
    assert [trial["config"] for trial in trials[5:]] != drawn[5:]


@pytest.mark.parametrize(
    "stops",
    [
        pytest.param({"0007": signal.SIGKILL}, marks=pytest.mark.slow, id="killed"),
        pytest.param({"0005": signal.SIGINT, "0007": signal.SIGKILL}, marks=pytest.mark.soak, id="soak-both"),
    ],
)
def test_a_sweep_by_tpe_that_was_interrupted_and_killed_proposes_as_one_that_was_not(
    here: Path, own_ray: None, stops: dict[str, int]
) -> None:
    words = [sys.executable, "-m", "popgpt.tune", "space.yaml", "search=optuna", "num_samples=9", "max_iters=180"]
    words += ["eval_interval=30", "asha.grace_period=60", "resources.max_concurrent=1", "mlflow_log=false"]
    resume: list[str] = []
    for name, number in stops.items():
        process = subprocess.Popen([*words, *resume], cwd=here, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait_for(lambda name=name, process=process: name in logged(here) or process.poll() is not None, name)
        process.send_signal(number)
        _, errors = process.communicate()
        assert process.returncode in (130, -number), errors.decode()
        resume = ["--resume"]
    statuses = {trial["id"]: trial["status"] for trial in found(here)["trials"]}
    assert statuses["0007"] not in ("planned", "waiting")
    assert statuses["0008"] == "planned"
    words[1:1] = ["-X", "importtime"]
    for arguments in (resume, ["out_dir=undisturbed"]):
        done = subprocess.run(
            [*words, *arguments], cwd=here, check=True, capture_output=True, text=True, timeout=PATIENCE
        )
        assert not re.findall(r"\| +((?:mlflow|wandb)\b.*)", done.stderr), "the driver imports no service's library"
    never = json.loads((here / "undisturbed" / "sweep.json").read_text())
    assert timeless(found(here)["trials"]) == timeless(never["trials"])


def test_without_optuna_its_search_is_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"^search='optuna' needs optuna: pip install 'popgpt\[optuna\]'$"):
        tune.main(["space.yaml", "search=optuna"])
    assert not (here / "sweep").exists()


def test_a_resume_waits_for_what_the_process_of_a_trial_still_writes(here: Path) -> None:
    sweep = load_sweep("space.yaml")
    folder = Folder(here / "sweep" / "trials" / "0000")
    record, held = Record(sweep, sample(sweep)), threading.Event()
    record.put(replace(record.trials["0000"], status=Status.RUNNING, metrics=[{"iteration": 1}]))

    def write() -> None:
        with claimed(folder):
            folder.write(METRICS_FILE, b'{"iteration": 1}\n')
            held.set()
            time.sleep(0.3)
            folder.write(METRICS_FILE, b'{"iteration": 1}\n{"iteration": 2, "exact_match": 0.5}\n')

    with beside(write):
        held.wait()
        recover_open_trials(record, here / "sweep")
    assert record.trials["0000"].metrics == [{"iteration": 1}, {"iteration": 2, "exact_match": 0.5}]
    assert not (here / "sweep" / "trials" / "0001").exists()


@pytest.mark.parametrize(
    ("block_size", "said"),
    [({"choice": [9, 12, 15]}, "in some trials {counts} are too long for block_size=9: "), ({"choice": [15, 30]}, "")],
)
def test_lines_too_long_are_said_once_for_all_trials(
    here: Path, caplog: pytest.LogCaptureFixture, block_size: dict[str, Any], said: str
) -> None:
    space = yaml.safe_load(Path("space.yaml").read_text())
    space["space"]["block_size"] = block_size
    Path("space.yaml").write_text(yaml.safe_dump(space))
    sweep = load_sweep("space.yaml", ["num_samples=20"])
    dataset = ensure_dataset(sweep.config())
    runner.warn_of_long_lines(Record(sweep, sample(sweep)), dataset)
    meta = dataset.meta
    counts = [f"{meta.count_longer(split, 9)} of {meta.lines[split]} lines of {split}" for split in SPLITS]
    assert [message.partition("left out")[0] for message in caplog.messages] == (
        [said.format(counts=" and ".join(counts))] if said else []
    )


def test_retrying_takes_a_resume(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tune.main(["space.yaml", "--retry-failed"])
    assert "--retry-failed goes with --resume" in capsys.readouterr().err


def send_the_rest(here: Path) -> None:
    """Of a sweep of another process, which gives up waiting for MLflow after a while."""
    sync = [sys.executable, "-m", "popgpt.track", "sync", "sweep"]
    subprocess.run(sync, cwd=here, check=True, capture_output=True, timeout=PATIENCE)


def check_mlflow(trials: dict[str, Any], winner: str, every: int = 1) -> None:
    """One parent and a child a trial, with true statuses, reasons, flat parameters and metrics by iteration; evaluated
    was `every` so many.
    """
    from mlflow.tracking import MlflowClient

    assert tracking.flush(PATIENCE)
    client = MlflowClient(tracking.tracking_uri())
    runs = client.search_runs([client.get_experiment_by_name("calculator").experiment_id])
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert (parent.info.status, parent.data.tags["best_trial"]) == ("FINISHED", winner)
    assert {"report.html", "report.md"} <= {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert {"test_exact_match", "test_exact_match_n", "test_loss", "test_token_accuracy"} <= parent.data.metrics.keys()
    assert not [name for name in parent.data.metrics if name.startswith(("final_", "exact_match", "val_"))]
    (won,) = (run for run in runs if run.data.tags.get("trial") == winner)
    assert {key: parent.data.tags.get(f"winner/{key}", parent.data.params[key]) for key in won.data.params} == (
        won.data.params
    )
    children = {run.data.tags["trial"]: run for run in runs if run is not parent}
    assert children.keys() == trials.keys()
    for name, run in children.items():
        trial = trials[name]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        shown = {"completed": "FINISHED", "stopped": "KILLED"}[trial["status"]]
        assert (run.info.status, run.data.tags["status"]) == (shown, trial["status"])
        trained = max(run.data.metrics["train_seconds"], run.data.metrics["final_train_seconds"])
        assert run.info.end_time - run.info.start_time == round(1000 * trained), "the time it was held is not its own"
        went_on = "went on as a finalist" if "stopped_by" in trial else None
        assert run.data.tags.get("reason") == (trial["reason"] or went_on)
        assert run.data.params["d_model"] == str(trial["config"]["d_model"])
        assert json.loads(run.data.tags["lines_left_out"]) == {"train": 0, "val": 0}
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "exact_match")]
        assert steps == list(range(every, trial["iterations"] + 1, every))
        files = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
        assert files == {"ckpt.pt", "config.yaml", "result.json"}


@pytest.mark.slow
def test_a_trial_that_fails_fails_alone(
    here: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    words = ["asha=null", "learning_rate={grid: [1e-2, 1e30]}", "d_model=8", "num_samples=1", "warmup_iters=0"]
    words += ["optimizer=adamw", "grad_clip=0", "mlflow_log=false"]
    assert tune.main(["space.yaml", *words]) == 0
    good, bad = found(here)["trials"]
    assert (good["status"], good["iterations"]) == ("completed", 9)
    assert bad["status"] == "failed"
    assert "the loss is not finite at iteration" in bad["reason"]
    assert found(here)["best"]["id"] == "0000"
    assert "1 trial failed; run it again" in capsys.readouterr().out
    with caplog.at_level("INFO", logger="popgpt"):
        assert tune.main(["space.yaml", *words, "--resume", "--retry-failed"]) == 0
    assert "running 1 trial that failed again" in caplog.messages
    again = found(here)["trials"]
    assert (again[0], again[1]["status"], again[1]["reason"]) == (good, "failed", bad["reason"])


@pytest.mark.slow
def test_a_trial_that_runs_out_of_memory_or_is_killed_fails_alone(here: Path) -> None:
    """One at a time, each with all cores: the next can only run where the one before has given them back."""
    cores = os.cpu_count() or 1
    words = ["asha=null", "d_model=8", f"block_size={{grid: {[32, 2**20, 48]}}}", "num_samples=1", "learning_rate=0.01"]
    words += ["max_iters=800", "eval_interval=100", "mlflow_log=false", f"resources.cpus_per_trial={cores}"]
    with beside(lambda: kill(trainer(here, "0000"))):
        assert tune.main(["space.yaml", *words]) == 0
    killed, absurd, good = found(here)["trials"]
    lower = "lower batch_size, and raise gradient_accumulation_steps by the same factor"
    assert (killed["status"], absurd["status"], good["status"]) == ("failed", "failed", "completed")
    assert re.match(rf"the trial's process died, maybe out of memory with batch_size=4, .*: {lower}", killed["reason"])
    assert re.match(rf"out of memory with batch_size=4, block_size={2**20}, d_model=8, .*: {lower}", absurd["reason"])
    assert json.loads((here / "sweep" / "best" / "result.json").read_text())["threads"] == cores


@pytest.mark.slow
def test_a_trial_that_rays_memory_monitor_kills_fails_alone(here: Path, own_ray: None) -> None:
    """Ray, which kills where a machine has no more than a threshold left, is told that this one has a few gigabytes."""
    from ray._common.utils import get_system_memory
    from ray._private.utils import get_used_memory

    all_there_is = get_system_memory()  # to Ray: what a container may take, where it is limited
    (available,) = re.findall(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    free = min(1024 * int(available), all_there_is - get_used_memory())
    if free < 8e9:
        pytest.skip("takes 8 GB of free memory")
    monitor = {"RAY_memory_usage_threshold": str(1 - (free - 6e9) / all_there_is)}  # other tests take some too
    words = ["asha=null", "d_model=512", "d_head=64", "n_layer=4", "batch_size={grid: [8000, 8]}", "num_samples=1"]
    words += ["learning_rate=0.01", "max_iters=4", "eval_interval=4", "mlflow_log=false", "resources.max_concurrent=1"]
    done = subprocess.run(
        [sys.executable, "-m", "popgpt.tune", "space.yaml", *words],
        **{"cwd": here, "env": {**os.environ, **monitor, "RAY_memory_monitor_refresh_ms": "100"}},
        **{"capture_output": True, "text": True, "timeout": PATIENCE},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    killed, good = found(here)["trials"]
    assert (killed["status"], good["status"]) == ("failed", "completed")
    assert killed["reason"].startswith("the trial's process was killed: out of memory with batch_size=8000")


@contextmanager
def beside(disturb: Callable[[], Any]) -> Iterator[None]:
    """While `disturb` is at work, which is then to have come to its end."""
    thread = threading.Thread(target=disturb, daemon=True)
    thread.start()
    yield
    thread.join(PATIENCE)
    assert not thread.is_alive()


def trainer(here: Path, trial: str, title: str = "ray::ImplicitFunc") -> int:
    """The process that writes a trial's folder, which locks it, once it has logged something."""
    folder = here / "sweep" / "trials" / trial
    wait_for(lambda: read_metrics(Folder(folder)), "a row")
    lock = file_of(folder / WRITER_LOCK)
    (pid,) = (pid for pid in pids(title) if lock in opened(pid))
    return pid


def ended_sweep(count: int) -> Any:
    """The record of a sweep of so many trials, some of which failed, as `print_result` takes it."""
    trials = {trial.id: trial for trial in sweep_of(count, SPACES[6])}
    return SimpleNamespace(
        trials=trials,
        runs=trials,
        sweep=SimpleNamespace(metric="exact_match", finalist_seeds=1),
        finalists=[],
        unfinished=list,
    )


@pytest.mark.parametrize("count", [5, 200])
def test_the_end_of_a_sweep_fits_a_terminal(
    count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "80", "LINES": "24", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    score = {"exact_match": 0.5, "exact_match_n": 9, "exact_match_low": 0.4, "exact_match_high": 0.6}
    print_result(ended_sweep(count), tmp_path, {"id": "0000", "test": score}, 9.0, "-5 + '3'=")
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    top, _, below = text.partition("\n\n")
    assert max(len(line) for line in top.splitlines() if str(tmp_path) not in line) <= 80
    assert text.count("\n") <= 24 + text.count("python -m")  # a command may be longer than a line
    assert "failed: 0001: RuntimeError: out of memory" in text
    assert (f"all trials: {tmp_path / 'sweep.json'}" in text) == (count > 10)
    (asking,) = [line for line in below.splitlines() if line.startswith("ask it: ")]
    assert shlex.split(asking)[-2:] == [str(tmp_path / "best"), "-5 + '3'="]


def test_elsewhere_every_trial_is_shown_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_result(ended_sweep(200), tmp_path, None, 9.0, "1=")
    lines = capsys.readouterr().out.splitlines()
    assert "gradient_accumulation_steps" in lines[0]
    assert sum(re.match(r"\d{4}  ", line) is not None for line in lines) == 200
    assert sum("stopped: asha: rung" in line for line in lines) > 100


def test_what_to_ask_is_a_prompt_of_the_dataset(here: Path) -> None:
    dataset = ensure_dataset(load_config("base.yaml"))
    assert example_prompt(dataset, 32) == dataset.split("val").lines(0, 1)[0].partition("=")[0] + "="
    lines = ["3 December 2021:2021-12-03", "1 May 2021:2021-05-01"]
    dates: Any = SimpleNamespace(
        meta=SimpleNamespace(separator=":"), split=lambda _: SimpleNamespace(lines=lambda *_: lines)
    )
    assert [example_prompt(dates, longest) for longest in (64, 22, 4)] == [
        "3 December 2021:",
        "1 May 2021:",
        "3 December 2021:",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("num_sampels=3", "did you mean num_samples?"),
        ("metric=accuracy", "metric='accuracy' should be"),
        ("d_head={choice: []}", "choice=[] should be a list of values"),
        ("learning_rte={choice: [1]}", "did you mean learning_rate?"),
        ("d_model={choice: [7]}", "does not divide d_model=7"),
        ("device=cuda and resources.gpus_per_trial=0", "device='cuda' needs resources.gpus_per_trial above 0"),
        ("device=cuda and workers=64 and batch_size=64", "workers=64 with device=cuda need 64 GPUs; there are"),
        ("best_by=val_loss", "best_by='val_loss' should be the sweep's metric='exact_match'"),
        ("block_size=4", "block_size=4 holds no line of train"),
        ("always_save_checkpoint=true", "a sweep compares each trial's best"),
        ("resources.cpus_per_trial=1000", "resources.cpus_per_trial=1000 should be at most the"),
        ("resources.gpus_per_trial=64", "resources.gpus_per_trial=64 should be at most the"),
        ("init_from=resume", "init_from=resume is for one run; go on with a sweep by --resume"),
        ("init_from=nowhere", "nowhere: no such file or folder"),
        ("out_dir=space.yaml/sweep", "space.yaml/sweep: Not a directory"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_ray_is_started(
    here: Path, monkeypatch: pytest.MonkeyPatch, words: str, said: str
) -> None:
    def ray_starts(**options: object) -> None:
        raise AssertionError("Ray is started")

    monkeypatch.setattr(ray, "init", ray_starts)
    with pytest.raises(UserError) as refused:
        tune.main(["space.yaml", "mlflow_log=false", *words.split(" and ")])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (here / "sweep").exists()


@pytest.mark.parametrize("words", [[], ["num_samples=3"], ["max_iters=3"]])
def test_a_config_and_a_search_space_are_not_mixed_up(here: Path, words: list[str]) -> None:
    for module, file, said in (
        (tune, "base.yaml", "base.yaml: a config, not a search space; train it with python -m popgpt.train base.yaml"),
        (
            train,
            "space.yaml",
            "space.yaml: a search space, not a config; sweep it with python -m popgpt.tune space.yaml",
        ),
    ):
        with pytest.raises(UserError) as refused:
            module.main([file, *words])
        assert str(refused.value) == said
    assert {path.name for path in here.iterdir()} == {"base.yaml", "space.yaml", "mlflow.db"}


def test_starting_anew_keeps_the_old_sweep(here: Path) -> None:
    (here / "sweep").mkdir()
    (here / "sweep" / "sweep.json").write_text("{}")
    words = ["space.yaml", "--force", "num_samples=1", "mlflow_log=false"]
    assert tune.main(words) == 0
    assert (here / "sweep.old-1" / "sweep.json").read_text() == "{}"
    assert len(found(here)["trials"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("interrupted", [False, True], ids=["to its end", "Ctrl-C"])
def test_trials_of_two_workers_leave_nothing_on_a_ray_of_others(here: Path, own_ray: None, interrupted: bool) -> None:
    """Two on two cores, one of which goes on after a rung: a place that is not given back ends in an endless wait."""
    words = ["workers=2", "resources.cpus_per_trial=2", "eval_interval=3", "asha.grace_period=3", "mlflow_log=false"]
    words += ["num_samples=2", "asha.reduction_factor=2"]
    words += ["max_iters=100000", "eval_interval=100000", "asha=null"] if interrupted else []

    def others() -> list[int]:
        """Of the Ray itself: those that it starts ahead get their name when they are ready."""
        return [*pids(f"ray::{COORDINATOR}"), *pids("ray::IDLE")]

    with cluster(2):
        before = pids("ray::")
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "popgpt.tune", "space.yaml", *words],
            **{"cwd": here, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True},
            start_new_session=True,
        )
        if interrupted:
            trainer(here, "0000", WORKER)
            os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=2 * PATIENCE)
        print(f"ended in {time.monotonic() - started:.0f} s")
        assert process.returncode == (130 if interrupted else 0), output
        wait_for(lambda: set(pids("ray::")) <= {*before, *others()}, "the processes to end", every=0.1)
        with session.connected():
            wait_for(nothing_is_held, "the places to be free", every=0.1)
    statuses = {trial["status"] for trial in found(here)["trials"]}
    assert statuses <= ({"interrupted", "waiting"} if interrupted else {"completed", "stopped"})
    assert interrupted or json.loads((here / "sweep" / "best" / "result.json").read_text())["world_size"] == 2


@pytest.mark.gpu
def test_trials_share_a_gpu(here: Path) -> None:
    assert tune.main(["space.yaml", "device=auto", "mlflow_log=false"]) == 0
    gpu = found(here)["gpu"]
    assert 0 < gpu["context"] < gpu["context"] + gpu["peak"] < gpu["total"]
    for trial in found(here)["trials"]:
        assert json.loads((here / "sweep" / "trials" / trial["id"] / "result.json").read_text())["device"] == "cuda:0"


@pytest.mark.gpu
def test_a_trial_that_takes_more_than_its_share_of_a_gpu_fails_alone(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its weights alone take a tenth of the memory."""
    wide = math.isqrt(torch.cuda.mem_get_info()[1] // (10 * 12 * 4)) // 8 * 8
    words = ["device=cuda", "resources.gpus_per_trial=0.05", f"d_model={{grid: {[16, wide, 24]}}}", "num_samples=1"]
    assert tune.main(["space.yaml", *words, "asha=null", "learning_rate=0.01", "mlflow_log=false"]) == 0
    narrow, failed, last = found(here)["trials"]
    assert (narrow["status"], failed["status"], last["status"]) == ("completed", "failed", "completed")
    assert failed["reason"].startswith(f"out of memory with batch_size=4, block_size=32, d_model={wide}")
    assert "resources.gpus_per_trial=0.05 leaves a trial" in caplog.text


@pytest.mark.slow
def test_a_trial_whose_supervisor_is_killed_gives_its_place_back(here: Path, own_ray: None) -> None:
    """On a Ray without a dashboard, whose own cleaner needs one."""
    words = ["workers=2", "resources.cpus_per_trial=2", "asha=null", "d_model=8", "num_samples=1"]
    words += [
        f"block_size={{grid: {[32, 2**20, 48]}}}",
        "learning_rate=0.01",
        "max_iters=1000",
        "eval_interval=500",
        "mlflow_log=false",
    ]

    def kill_supervisor() -> None:
        trainer(here, "0000", WORKER)
        (supervisor,) = pids("ray::ImplicitFunc")
        kill(supervisor)

    with beside(kill_supervisor), listening() as listened:
        assert tune.main(["space.yaml", *words]) == 0
    assert exposed(listened) == set()
    killed, absurd, good = found(here)["trials"]
    assert (killed["status"], absurd["status"], good["status"]) == ("failed", "failed", "completed")
    assert killed["reason"].startswith("the trial's process died, maybe out of memory with batch_size=4")
    assert absurd["reason"].startswith(f"out of memory with batch_size=4, block_size={2**20}")
    assert json.loads((here / "sweep" / "best" / "result.json").read_text())["threads"] == 1


@pytest.mark.parametrize("number", sample_and_whole([signal.SIGTERM], [signal.SIGINT]))
def test_a_signal_ends_cleanly_and_a_resume_finishes(here: Path, own_ray: None, number: int) -> None:
    words = [sys.executable, "-m", "popgpt.tune", "space.yaml", "max_iters=1500", "eval_interval=100"]
    words += ["asha.grace_period=500", "num_samples=2"]
    process = subprocess.Popen(words, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    trial = here / "sweep" / "trials" / "0000"
    wait_for(lambda: list(trial.glob("state-*.pt")) or process.poll() is not None, "a state")
    process.send_signal(number)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, output
    assert "go on with the same command and --resume" in output
    assert "Traceback" not in output
    assert {trial["status"] for trial in found(here)["trials"]} <= {"interrupted", "paused", "waiting"}
    done = subprocess.run([*words, "--resume"], cwd=here, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    for trial in found(here)["trials"]:
        assert trial["status"] in ("completed", "stopped")
        steps = [row["iteration"] for row in trial["metrics"]]
        assert steps == list(range(1, trial["iterations"] + 1))
        evaluated = [row["iteration"] for row in trial["metrics"] if "exact_match" in row]
        assert evaluated == list(range(100, trial["iterations"] + 1, 100))
    assert load_config(here / "sweep" / "best" / "config.yaml").init_from == "scratch"


@pytest.mark.parametrize(
    ("at_once", "rule", "kills"),
    sample_and_whole(
        [(1, "promote", 2), (2, "stop", 1)], [(at_once, rule, 5) for at_once in (1, 2) for rule in ("promote", "stop")]
    ),
)
def test_a_sweep_that_is_killed_ends_as_one_that_never_was(
    here: Path, own_ray: None, at_once: int, rule: str, kills: int
) -> None:
    """Killed at random moments. One trial at a time it ends the same; two at a time nothing of it is lost."""
    words = [sys.executable, "-m", "popgpt.tune", "space.yaml", "num_samples=5", "max_iters=720", "eval_interval=80"]
    words += ["asha.grace_period=80", f"resources.max_concurrent={at_once}", "d_model={choice: [8, 16]}"]
    words += [f"asha.rule={rule}"]
    moments, resume = random.Random(at_once), []
    for _ in range(kills):
        goal = sum(logged(here).values()) + moments.randrange(1, 150)
        process = subprocess.Popen([*words, *resume], cwd=here, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait_for(lambda p=process, goal=goal: sum(logged(here).values()) >= goal or p.poll() is not None, "rows")
        time.sleep(moments.uniform(0, 0.05))
        process.kill()
        _, errors = process.communicate()
        assert process.returncode == -signal.SIGKILL, errors.decode()
        resume = ["--resume"]
        running = [trial["id"] for trial in found(here)["trials"] if trial["status"] == "running"]
        for trial, last in logged(here).items():
            assert trial not in running or last - kept(here / "sweep" / "trials" / trial) <= 80
    subprocess.run([*words, *resume], cwd=here, check=True, capture_output=True, timeout=PATIENCE)
    sweep = found(here)
    trials = {trial["id"]: trial for trial in sweep["trials"]}
    assert {trial["status"] for trial in trials.values()} <= {"completed", "stopped"}
    for name, trial in trials.items():
        assert [row["iteration"] for row in trial["metrics"]] == list(range(1, trial["iterations"] + 1))
        for rung, scores in sweep["asha"]["scores"][0].items():
            assert (name in scores) == (trial["iterations"] >= int(rung))
    send_the_rest(here)
    check_mlflow(trials, sweep["best"]["id"], every=80)
    if at_once == 1:
        subprocess.run([*words, "out_dir=undisturbed"], cwd=here, check=True, capture_output=True, timeout=PATIENCE)
        never = json.loads((here / "undisturbed" / "sweep.json").read_text())
        assert timeless(sweep["trials"]) == timeless(never["trials"])
        assert sweep["asha"] == never["asha"]
        assert [sweep["best"][key] for key in ("id", "test")] == [never["best"][key] for key in ("id", "test")]


def logged(here: Path) -> dict[str, int]:
    """The last iteration that each trial has logged."""
    files = (here / "sweep" / "trials").glob("*/metrics.jsonl")
    return {path.parent.name: rows[-1]["iteration"] for path in files if (rows := read_metrics(Folder(path.parent)))}


def kept(trial: Path) -> int:
    """The iteration of a trial's last state; 0 where it has none."""
    return max((int(name.removeprefix("state-").removesuffix(".pt")) for name in state_names(Folder(trial))), default=0)


def timeless(what: Any) -> Any:
    """Without what the clock decides."""
    if isinstance(what, dict):
        return {key: timeless(value) for key, value in what.items() if not key.endswith("seconds")}
    return [timeless(each) for each in what] if isinstance(what, list) else what
