"""What MLflow has in the end: after `popgpt.track sync`, and after servers that refuse, answer late or forget."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from popgpt import track, tracking
from popgpt.config import dump_yaml, make_config
from popgpt.storage.folder import Folder
from popgpt.text.errors import UserError
from popgpt.tracking import flat_metrics, identity
from popgpt.training import folder
from tests.conftest import TINY
from tests.services import Proxy, client, server

ROWS = [{"iteration": i, "train_loss": 2.0 / i, "train_seconds": i / 2} for i in range(1, 61)]
SILENT = make_config({"mlflow_log": False})
RESULT = {"status": "completed", "exact_match": 0.5, "iteration": 60, "train_seconds": 30.0}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: bytes) -> str:
    (tmp_path / "mlflow.db").write_bytes(empty_store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tracking.tracking_uri()


def make_run(out_dir: Path, **result: Any) -> Path:
    """A run's folder, as training leaves it."""
    out_dir.mkdir(parents=True)
    config = make_config({**TINY, "experiment": "sums", "out_dir": str(out_dir)})
    (out_dir / "config.yaml").write_text(dump_yaml(config.model_dump()))
    (out_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (out_dir / "result.json").write_text(json.dumps({**RESULT, **result}))
    (out_dir / "ckpt.pt").write_text("weights")
    return out_dir


def runs(uri: str) -> list[Any]:
    api = client(uri)
    return list(api.search_runs([api.get_experiment_by_name("sums").experiment_id]))


def history(uri: str, run_id: str) -> dict[str, list[int]]:
    """The steps of every value that MLflow has, by metric, but for what a run ended with."""
    api = client(uri)
    names = [name for name in api.get_run(run_id).data.metrics if not name.startswith("final_")]
    return {name: sorted(value.step for value in api.get_metric_history(run_id, name)) for name in names}


def logged(out_dir: Path) -> dict[str, list[int]]:
    """The same of metrics.jsonl."""
    steps: dict[str, list[int]] = {}
    for row in folder.read_metrics(Folder(out_dir)):
        for name in flat_metrics(row):
            steps.setdefault(name, []).append(row["iteration"])
    return steps


def test_a_run_that_was_never_recorded_is_sent_once(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = make_run(tmp_path / "out")
    for _ in range(2):
        assert track.main(["sync", str(run_dir)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == (
        "run out: 122 of 122 values were missing, sent; sent too: parameters and tags, config.yaml, result.json, "
        "ckpt.pt, status completed"
    )
    assert second == "run out: 0 of 122 values were missing"
    (run,) = runs(store)
    assert (run.info.run_name, run.info.status, run.data.tags["status"]) == ("out", "FINISHED", "completed")
    assert run.data.params["d_model"] == "16"
    assert history(store, run.info.run_id) == logged(run_dir)
    assert {"final_exact_match": 0.5, "train_loss": ROWS[-1]["train_loss"]}.items() <= run.data.metrics.items()
    assert {a.path for a in client(store).list_artifacts(run.info.run_id)} == {"ckpt.pt", "config.yaml", "result.json"}


def test_only_what_is_missing_is_sent(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = make_run(tmp_path / "out")
    track.main(["sync", str(run_dir)])
    more = [{"iteration": i, "train_loss": 1.0, "val_loss": 2.0, "train_seconds": float(i)} for i in range(60, 71)]
    with open(run_dir / "metrics.jsonl", "a") as metrics:
        metrics.writelines(map(folder.metrics_line, more[1:]))
    (run_dir / "ckpt.pt").write_text("others!")
    track.main(["sync", str(run_dir)])
    assert capsys.readouterr().out.splitlines()[1] == "run out: 30 of 152 values were missing, sent; sent too: ckpt.pt"
    (run,) = runs(store)
    assert history(store, run.info.run_id) == logged(run_dir)


def test_it_may_be_interrupted_anywhere(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make_run(tmp_path / "out")

    def interrupted(action: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            action(*args, **more)
            raise KeyboardInterrupt

        return call

    from mlflow import MlflowClient

    monkeypatch.setattr("popgpt.tracking.mlflow.METRICS_A_CALL", 50)
    for name in ("create_experiment", "create_run", "log_batch", "set_terminated"):
        monkeypatch.setattr(MlflowClient, name, interrupted(getattr(MlflowClient, name)))
    interruptions = 0
    while interruptions < 20:
        try:
            track.sync(run_dir)
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert 6 < interruptions < 20
    (run,) = runs(store)
    assert history(store, run.info.run_id) == logged(run_dir)
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize(("error", "status"), [(False, "KILLED"), (True, "FAILED")])
def test_the_status_of_a_run_that_did_not_end_well(store: str, tmp_path: Path, error: bool, status: str) -> None:
    run_dir = make_run(tmp_path / "out", status="interrupted")
    if error:
        (run_dir / "error.txt").write_text("out of memory")
    track.sync(run_dir)
    assert [run.info.status for run in runs(store)] == [status]


def test_a_sweep_is_sent_with_its_trials(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out_dir = tmp_path / "sweep"
    trials = [
        {"id": "0000", "config": {}, "status": "completed", "reason": None, "metrics": ROWS},
        {"id": "0001", "config": {}, "status": "stopped", "reason": "asha: rung 20", "metrics": ROWS[:20]},
        {"id": "0002", "config": {}, "status": "waiting", "reason": None, "metrics": []},
    ]
    for trial in trials[:2]:
        make_run(out_dir / "trials" / str(trial["id"]))
    make_run(out_dir / "best")
    make_run(out_dir / "trials" / "0000-s1")
    repeat = {"id": "0000-s1", "of": "0000", "config": {"seed": 9}, "status": "completed", "reason": None}
    best = {"id": "0000", "test": {"exact_match": 0.25}}
    base = {**TINY, "experiment": "sums"}
    seeds = [{"seed": seed, "run": run, "status": "completed"} for seed, run in ((8, "0000"), (9, "0000-s1"))]
    sweep = {"metric": "exact_match", "best": best, "trials": trials}
    sweep |= {"sweep": {"base": base, "space": {}, "asha": None, "max_t": 40}}
    sweep |= {"finalists": [{"id": "0000", "seeds": seeds, "mean": 0.5}], "repeats": [{**repeat, "metrics": ROWS}]}
    (out_dir / "sweep.json").write_text(json.dumps(sweep))
    for _ in range(2):
        track.sync(out_dir)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        *("run sweep", "run sweep/0000", "run sweep/0001", "run sweep/0000-s1")
    ] * 2
    assert all(line.endswith("values were missing") and ": 0 of" in line for line in lines[4:])
    found = {run.info.run_name: run for run in runs(store)}
    parent = found.pop("sweep")
    assert (parent.data.metrics, parent.data.tags["best_trial"]) == ({"test_exact_match": 0.25}, "0000")
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {parent.info.run_id}
    assert found["sweep/0001"].data.tags["reason"] == "asha: rung 20"
    assert [found[f"sweep/{name}"].data.tags.get("finalist") for name in ("0000", "0001", "0000-s1")] == [
        *("0000", None, "0000")
    ]
    assert {a.path for a in client(store).list_artifacts(parent.info.run_id)} == {"best", "sweep.json"}
    assert parent.data.params == found["sweep/0000"].data.params, "the winner's"
    lasted = {name: run.info.end_time - run.info.start_time for name, run in found.items()}
    assert set(lasted.values()) == {30000}, "as long as they trained, whenever they are sent"
    assert {name: run.info.status for name, run in found.items()} == {
        **{"sweep/0000": "FINISHED", "sweep/0001": "KILLED", "sweep/0000-s1": "FINISHED"}
    }
    sweep["best"] = {"id": "0001", "test": {"exact_match": 0.75}}
    sweep["trials"][1]["metrics"] = ROWS[:30]
    (out_dir / "sweep.json").write_text(json.dumps(sweep))
    track.sync(out_dir)
    (parent,) = (run for run in runs(store) if run.info.run_name == "sweep")
    assert (parent.data.metrics, parent.data.tags["best_trial"]) == ({"test_exact_match": 0.75}, "0001")
    assert parent.data.tags["winner/out_dir"].endswith("trials/0001")


def test_what_is_no_run_or_is_training_is_refused(store: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run's folder, which has a"):
        track.sync(tmp_path)
    run_dir = make_run(tmp_path / "out")
    with folder.claimed(Folder(run_dir)), pytest.raises(UserError, match="is in use"):
        track.sync(run_dir)


def test_a_service_that_does_not_answer_is_said_in_one_line(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "popgpt.track", "sync", str(make_run(tmp_path / "out"))]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    said = "error: MLflow at http://127.0.0.1:9 does not answer (Connection refused)\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


@pytest.mark.parametrize("kind", ["read-only", "no store"])
def test_a_store_that_refuses_is_said_in_one_line(
    kind: str, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "no store":
        (tmp_path / "mlflow.db").write_text("not a database, but text that is longer than its header would be" * 100)
    else:
        monkeypatch.chdir(tmp_path)  # where MLflow makes a folder `file:`
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///file:{tmp_path}/mlflow.db?mode=ro&uri=true")
    with pytest.raises(ConnectionError, match=r"^MLflow at sqlite:///\S+ refuses \(.*database\)$"):
        track.sync(make_run(tmp_path / "out"))


@pytest.mark.parametrize(
    ("scheme", "driver", "package"),
    [
        ("postgresql+psycopg2", "psycopg2", "psycopg2-binary"),
        ("mysql", "MySQLdb", "mysqlclient"),
        ("mysql+pymysql", "pymysql", "pymysql"),
    ],
)
def test_a_missing_driver_is_said_in_one_line(
    scheme: str, driver: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, driver, None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://user:c4n4ry@127.0.0.1:9/db")
    with pytest.raises(ConnectionError) as refused:
        track.main(["sync", str(make_run(tmp_path / "out"))])
    said = f"it needs the module {driver}: pip install {package}"
    assert str(refused.value) == f"MLflow at {scheme}://user:***@127.0.0.1:9/db refuses ({said})"


@pytest.mark.parametrize(
    "uri", ["nonsense://x", "postgresql://host:port/db", "http://host:port", "file:/\x1bx", "http://["]
)
def test_an_address_that_is_none_is_said_in_one_line(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ConnectionError) as refused:
        track.sync(make_run(tmp_path / "out"))
    assert str(refused.value).isprintable()


def test_credentials_are_taken_from_the_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = make_run(tmp_path / "out")
    kept = identity.Identity("http://user:c4n4ry@127.0.0.1:9", "e", "n")  # as an object before 0.1.0 wrote it
    identity.write(Folder(run_dir), kept)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(
        ConnectionError, match=r"at http://user:\*\*\*@127.* was recorded with a password.*: set MLFLOW_"
    ):
        track.sync(run_dir)
    assert "c4n4ry" not in (run_dir / "tracking.json").read_text()


def mutated(content: bytes, chance: random.Random) -> bytes:
    """A tracking.json that a disk, an editor or another program has spoiled: its bytes, or values of other kinds."""
    if chance.random() < 0.25:
        cut = chance.randrange(len(content))
        return content[:cut] + chance.choice([b"", b"\x00", b"\xff\xfe", b"[" * 100_000, content]) + content[cut + 1 :]
    whole = json.loads(content)
    for key in chance.sample(sorted(whole), chance.randint(1, 3)):
        values = [None, True, -1, 0.5, 10**400, float("nan"), "", "\x1b[2J", "'", "x" * 5000, "\ud800", [], [[1]], {}]
        deep = json.loads('{"a":' * 300 + "1" + "}" * 300)
        kinds = [
            *values,
            deep,
            {"mlflow": 1},
            {"mlflow": "../x"},
            {"mlflow": None},
            [["__class__", []]],
            [["tags", [1]]],
        ]
        if chance.random() < 0.2:
            del whole[key]
        else:
            whole[key] = chance.choice(kinds)
    return json.dumps(chance.choice([whole, whole, whole, [whole], "text", 1])).encode()


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.soak)])
def test_whatever_tracking_json_holds_ends_in_one_line(
    count: int, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = make_run(tmp_path / "out")
    this = identity.Identity(store, "sums", "n", {"a": "1"}, {"b": "2"}, ids={"mlflow": "0" * 32}, status="completed")
    (run_dir / "metrics.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    identity.write(Folder(run_dir), this)
    content, chance = (run_dir / "tracking.json").read_bytes(), random.Random(count)
    monkeypatch.setattr("popgpt.tracking.run._senders", {})
    for number in range(count):
        spoiled = mutated(content, chance)
        (run_dir / "tracking.json").write_bytes(spoiled)
        # Most go where nobody answers, which is as much of popgpt and less of MLflow.
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store if number % 20 == 0 else "http://127.0.0.1:9")
        try:
            track.main(["sync", str(run_dir)])
            said = capsys.readouterr().out.removesuffix("\n")
        except (UserError, ConnectionError) as error:
            said = str(error)
        assert said.isprintable(), spoiled
        (run_dir / "tracking.json").write_bytes(spoiled)
        run = tracking.start(SILENT, experiment="e", name="n", params={}, folder=run_dir, resume=True)
        assert len(run.file.identity.token) == 32


@pytest.fixture(scope="module")
def mlflow_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with server(tmp_path_factory.mktemp("server")) as port:
        yield port


@pytest.fixture
def proxy(mlflow_port: int) -> Iterator[Proxy]:
    way = Proxy(mlflow_port)
    yield way
    way.give_back()


# `popgpt.train`, which pauses at each row: a run that lasts, so that a server can come and go, and asks no core for it.
UNHURRIED = """
import time
from popgpt import train
from popgpt.terminal import program, progress
show = progress.TrainingProgress.__call__
def pause_and_show(self, row):
    time.sleep(0.025)
    show(self, row)
progress.TrainingProgress.__call__ = pause_and_show
program.run(train.main)
"""


class Training:
    """`popgpt.train --local` of a run of 600 rows and some 15 seconds, recorded through a proxy."""

    def __init__(self, proxy: Proxy, out_dir: Path, shared_data: Path):
        self.out_dir = out_dir
        self.uri = proxy.uri
        config = {**TINY, "out_dir": str(out_dir), "data_dir": str(shared_data), "mlflow_log": True}
        self._config = out_dir.with_suffix(".yaml")
        self._config.write_text(dump_yaml({**config, "max_iters": 600, "eval_interval": 50}))
        self._name = f"experiment={out_dir.parent.name}"

    def start(self, *more: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", UNHURRIED, str(self._config), "--local", self._name, *more]
        environment = {**os.environ, "MLFLOW_TRACKING_URI": self.uri}
        return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    def wait_for_rows(self, count: int) -> None:
        until(lambda: len(identity.read_rows(Folder(self.out_dir))) >= count)

    def the_run(self, port: int, last: int = 600) -> Any:
        """The one run of the experiment, which has every value up to the last iteration once."""
        uri = f"http://127.0.0.1:{port}"
        api = client(uri)
        (run,) = api.search_runs([api.get_experiment_by_name(self.out_dir.parent.name).experiment_id])
        steps = history(uri, run.info.run_id)
        assert all(max(Counter(found).values()) == 1 for found in steps.values())
        assert steps == logged(self.out_dir)
        assert max(steps["train_loss"]) == last
        return run


def until(true: Callable[[], object], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def sync(out_dir: Path) -> str:
    words = [sys.executable, "-m", "popgpt.track", "sync", str(out_dir)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
@pytest.mark.parametrize("when", ["at the start", "in mid-run"])
def test_a_server_that_refuses_and_then_answers(
    when: str, proxy: Proxy, mlflow_port: int, tmp_path: Path, shared_data: Path
) -> None:
    training = Training(proxy, tmp_path / "out", shared_data)
    if when == "in mid-run":
        proxy.open()
    process = training.start()
    training.wait_for_rows(50)
    proxy.close()
    training.wait_for_rows(300)
    proxy.open()
    errors = process.communicate(timeout=600)[1]
    assert process.returncode == 0
    assert errors.count("warning: MLflow") <= 1, errors
    assert training.the_run(mlflow_port).info.status == "FINISHED"


@pytest.mark.slow
def test_a_server_that_comes_back_too_late_is_told_by_sync(
    proxy: Proxy, mlflow_port: int, tmp_path: Path, shared_data: Path
) -> None:
    training = Training(proxy, tmp_path / "out", shared_data)
    process = training.start()
    errors = process.communicate(timeout=600)[1]
    assert (process.returncode, errors.count("MLflow does not answer (Connection refused)")) == (0, 1)
    proxy.open()
    assert "values were missing, sent" in sync(tmp_path / "out")
    assert ": 0 of" in sync(tmp_path / "out")
    assert training.the_run(mlflow_port).info.status == "FINISHED"


@pytest.mark.slow
def test_a_slow_server_holds_nothing_up(proxy: Proxy, mlflow_port: int, tmp_path: Path, shared_data: Path) -> None:
    proxy.delay = 5.0
    proxy.open()
    training = Training(proxy, tmp_path / "out", shared_data)
    process = training.start()
    training.wait_for_rows(600)
    errors = process.communicate(timeout=600)[1]
    assert process.returncode == 0
    assert errors.count("warning: MLflow ") == 1, errors
    proxy.delay = 0.0
    sync(tmp_path / "out")
    training.the_run(mlflow_port)


@pytest.mark.slow
def test_a_run_that_is_killed_and_goes_on_is_one_run(
    proxy: Proxy, mlflow_port: int, tmp_path: Path, shared_data: Path
) -> None:
    proxy.open()
    training = Training(proxy, tmp_path / "out", shared_data)
    intervals = ["log_interval=10", "eval_interval=100"]
    process = training.start("max_iters=1000000", *intervals)

    def recorded() -> bool:
        kept = identity.read(Folder(tmp_path / "out"))
        run_id = kept and kept.ids.get("mlflow")
        return bool(run_id and history(proxy.uri, run_id).get("train_loss"))

    training.wait_for_rows(10)
    until(recorded)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    last = max(logged(tmp_path / "out")["train_loss"]) + 50
    process = training.start("init_from=resume", f"max_iters={last}", "lr_decay_iters=1000000", *intervals)
    errors = process.communicate(timeout=600)[1]
    assert process.returncode == 0, errors
    run = training.the_run(mlflow_port, last)
    assert run.info.status == "FINISHED"
    assert run.data.params["max_iters"] == "1000000", "parameters are logged once"
