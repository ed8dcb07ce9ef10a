"""Tracking against real services: an SQLite store, an MLflow server that dies and comes back, W&B offline."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popgpt import tracking
from popgpt.config import Config, make_config
from popgpt.tracking import Operation, Run

CONFIG = make_config({})
SILENT = make_config({"mlflow_log": False})
WANDB = make_config({"mlflow_log": False, "wandb_log": True})


@pytest.fixture(autouse=True)
def senders_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    senders: dict[tuple[str, str], Any] = {}
    monkeypatch.setattr(tracking, "_senders", senders)
    yield
    for sender in senders.values():
        sender._warned |= {"does", "refuses"}  # what still waits for a service no longer speaks


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/store/mlflow.db")
    return tracking.tracking_uri()


def begin(config: Config = CONFIG, name: str = "a run", **more: Any) -> Run:
    given: dict[str, Any] = {"params": {"d_model": 64}, "experiment": "tests"}
    return tracking.start(config, name=name, **(given | more))


def client(uri: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(uri)


def test_uri_is_absolute_and_the_environment_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking.ui_command().endswith(f"-m mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///here/x.db")
    assert tracking.tracking_uri() == f"sqlite:///{tmp_path}/here/x.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert tracking.tracking_uri() == "http://host:5000"
    assert tracking.ui_command().endswith("-m webbrowser http://host:5000")


def test_importing_it_imports_neither_service() -> None:
    code = "import sys, popgpt.tracking; assert not {'mlflow', 'wandb', 'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_sweep_is_a_parent_with_children(store: str, tmp_path: Path) -> None:
    parent = begin(name="sweep", params={"num_samples": 1}, tags={"sweep": "s"})
    run = begin(
        params={"d_model": 64, "bias": False, "experiment": None, "long": "x" * 7000, "a+b": 1},
        tags={"sweep": "s", "trial": "0"},
        parent=parent,
        folder=tmp_path / "run",
    )
    run.log([{"iteration": 10, "train_loss": 2.0, "note": "text"}, {"iteration": 20, "train_loss": float("nan")}])
    (tmp_path / "result.json").write_text("{}")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "ckpt.pt").write_text("weights")
    run.artifact(tmp_path / "result.json")
    run.artifact(tmp_path / "folder", "checkpoint")
    final = {"iteration": 20, "exact_match": 0.5, "status": "x", "by_operation": {"+": {"exact_match": 0.75, "n": 4}}}
    run.finish("stopped", final, {"reason": "asha: rung 20: exact_match 0.5 below 0.6", "none": None})
    parent.finish("completed")
    assert tracking.flush(60)

    api = client(store)
    seen = api.get_run(run.id)
    assert seen.info.run_name == "a run"
    assert seen.info.status == "FINISHED"
    assert {
        key: seen.data.tags.get(key) for key in ("status", "sweep", "trial", "reason", "mlflow.parentRunId", "none")
    } == {
        "status": "stopped",
        "sweep": "s",
        "trial": "0",
        "reason": "asha: rung 20: exact_match 0.5 below 0.6",
        "mlflow.parentRunId": parent.id,
        "none": None,
    }
    long = seen.data.params.pop("long")
    assert seen.data.params == {"d_model": "64", "bias": "false", "experiment": "null", "a_b": "1"}
    assert len(long) == 6000
    first, second = api.get_metric_history(run.id, "train_loss")
    assert (first.step, first.value, second.step) == (10, 2.0, 20)
    assert {k: v for k, v in seen.data.metrics.items() if k != "train_loss"} == {
        "final_exact_match": 0.5,
        "final_exact_match/add": 0.75,
    }
    assert api.get_metric_history(run.id, "final_exact_match")[0].step == 20
    assert {a.path for a in api.list_artifacts(run.id)} == {"result.json", "checkpoint"}
    assert list((tmp_path / "store" / "mlartifacts").rglob("ckpt.pt"))
    assert json.loads((tmp_path / "run" / "tracking.json").read_text())["unsent"] == {"mlflow": []}


@pytest.mark.parametrize(
    ("status", "shown"),
    [("completed", "FINISHED"), ("stopped", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED")],
)
def test_statuses_are_true(store: str, status: str, shown: str) -> None:
    run = begin()
    run.finish(status)
    assert tracking.flush(60)
    seen = client(store).get_run(run.id)
    assert (seen.info.status, seen.data.tags["status"]) == (shown, status)


def test_a_resumed_run_is_the_same_run(store: str, tmp_path: Path) -> None:
    first = begin(folder=tmp_path, params={"max_iters": 5})
    first.finish("interrupted")
    assert tracking.flush(60)
    again = begin(folder=tmp_path, params={"max_iters": 9, "new": 1}, resume=True)
    again.log([{"iteration": 1, "x": 1.0}])
    assert tracking.flush(60)
    seen = client(store).get_run(first.id)
    assert again.id == first.id
    assert seen.info.status == "RUNNING"
    assert seen.data.params == {"max_iters": "5", "new": "1"}
    assert begin(folder=tmp_path).ids == {}, "without resume it is a new run"
    assert tracking.flush(60)


def test_a_deleted_experiment_comes_back(store: str) -> None:
    begin().finish("completed")
    assert tracking.flush(60)
    api = client(store)
    api.delete_experiment(api.get_experiment_by_name("tests").experiment_id)
    run = begin()
    assert tracking.flush(60)
    assert api.get_run(run.id)


def test_what_the_service_refuses_is_set_aside(store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = begin(folder=tmp_path / "run")
    run.artifact(tmp_path / "missing.pt")
    run.log([{"iteration": 1, "x": 1.0}])
    run.finish("completed")
    assert not tracking.flush(60)
    seen = client(store).get_run(run.id)
    assert (seen.info.status, seen.data.metrics) == ("FINISHED", {"x": 1.0})
    left = json.loads((tmp_path / "run" / "tracking.json").read_text())
    assert left["unsent"]["mlflow"] == [["artifact", [str(tmp_path / "missing.pt"), None]]]
    assert capsys.readouterr().err.count("warning: MLflow refuses the artifact of a run") == 1


def test_many_rows_go_in_few_calls(store: str) -> None:
    run = begin()
    started = time.monotonic()
    for i in range(3000):
        run.log([{"iteration": i, "a": 1.0, "b": 2.0}])
    assert time.monotonic() - started < 1
    assert tracking.flush(60)
    assert len(client(store).get_metric_history(run.id, "b")) == 3000


def free_port() -> int:
    with closing(socket.socket()) as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.mark.parametrize("kind", ["refused", "silent", "no store"])
def test_an_unreachable_service_costs_one_warning(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        if kind == "silent":
            listener.listen()
        (tmp_path / "file").write_text("")
        server = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/x.db" if kind == "no store" else server)
        begun = time.monotonic()
        run = begin(folder=tmp_path / "run")
        for i in range(1000):
            run.log([{"iteration": i, "x": 1.0}])
        run.finish("completed")
        assert time.monotonic() - begun < 0.5
        assert not tracking.flush(2)
        assert not tracking.flush(2)
        assert time.monotonic() - begun < 6
        warned = capsys.readouterr().err.splitlines()
    assert run.id is None
    left = json.loads((tmp_path / "run" / "tracking.json").read_text())["unsent"]["mlflow"]
    assert [kind for kind, _ in left] == ["start", *["metrics"] * 1000, "tags", "finish"]
    assert len(warned) == (0 if kind == "silent" else 1), warned
    if kind == "refused":
        assert warned[0].startswith("warning: MLflow does not answer (Connection refused); the run goes on")


@contextmanager
def server(port: int, folder: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{folder}/s.db", "--artifacts-destination", str(folder / "artifacts")]
    process = subprocess.Popen([*command, *stores], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder)
    try:
        for _ in range(600):
            with closing(socket.socket()) as s:
                if s.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
def test_a_server_that_dies_and_comes_back_misses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with server(port, tmp_path):
        run = begin(folder=tmp_path / "run")
        run.log([{"iteration": 1, "x": 1.0}])
        assert tracking.flush(60)
    run.log([{"iteration": 2, "x": 2.0}])
    assert not tracking.flush(10)
    run.log([{"iteration": 3, "x": 3.0}])
    assert not tracking.flush(10)
    with server(port, tmp_path):
        (tmp_path / "ckpt.pt").write_text("weights")
        run.artifact(tmp_path / "ckpt.pt")
        run.finish("completed")
        assert tracking.flush(60)
        api = client(tracking.tracking_uri())
        assert [m.step for m in api.get_metric_history(run.id, "x")] == [1, 2, 3]
        assert api.get_run(run.id).info.status == "FINISHED"
        assert [a.path for a in api.list_artifacts(run.id)] == ["ckpt.pt"]
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_what_an_ended_process_left_is_sent_on_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    lost = begin(folder=tmp_path / "run")
    lost.log([{"iteration": 1, "x": 1.0}])
    assert not tracking.flush(10)
    with server(port, tmp_path):
        tracking._senders.clear()
        run = begin(folder=tmp_path / "run", resume=True)
        assert tracking.flush(60)
        assert [m.step for m in client(tracking.tracking_uri()).get_metric_history(run.id, "x")] == [1]


def test_wandb_takes_runs_side_by_side_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    runs = [begin(WANDB, name=f"run{i}", folder=tmp_path / str(i), params={"d_model": i}) for i in range(2)]
    (tmp_path / "result.json").write_text("{}")
    for i, run in enumerate(runs):
        run.log([{"iteration": 7, "train_loss": 0.5 + i}])
        run.artifact(tmp_path / "result.json")
        run.finish("completed", {"exact_match": 0.25, "iteration": 7})
    assert tracking.flush(60)
    for i in range(2):
        (log,) = (tmp_path / str(i)).rglob("*.wandb")
        words = {b"train_loss", b"final_exact_match", f"run{i}".encode(), b"completed"}
        for _ in range(100):  # W&B's own process writes the file, a little after
            found = {word for word in words if word in log.read_bytes()}
            if found == words:
                break
            time.sleep(0.1)
        assert found == words


def test_wandb_without_a_key_is_refused_and_never_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run = begin(WANDB)
    run.finish("completed")
    assert not tracking.flush(60)
    assert "warning: W&B refuses the start of a run (no W&B key" in capsys.readouterr().err


def test_a_run_that_is_recorded_nowhere_takes_everything() -> None:
    run = begin(SILENT)
    run.log([{"iteration": 1, "x": 1.0}])
    run.finish("failed")
    assert run.id is None


def test_metric_names_and_numbers() -> None:
    row = {"iteration": 3, "n": 2, "flag": True, "text": "x", "none": None, "a*b": 0.5, "list": [1]}
    assert tracking.flat_metrics(row) == {"n": 2.0, "a_b": 0.5}
    scores = {"by_operation": {s: {"exact_match": 0.5, "n": 2} for s in "+-*/"}}
    assert sorted(tracking.flat_metrics(scores)) == [f"exact_match/{name}" for name in ("add", "div", "mul", "sub")]


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["metrics", "tags"]), st.integers(1, 700)), min_size=1))
def test_a_call_keeps_the_order_of_its_run_and_the_limit(kinds: list[tuple[int, str, int]]) -> None:
    runs = [Run("e", str(i), "u", None) for i in range(3)]
    queue = [(runs[i], Operation(kind, [0] * size)) for i, kind, size in kinds]
    taken = tracking.head(queue)
    run = queue[0][0]
    mine = [item for item in queue if item[0] is run]
    assert taken == mine[: len(taken)]
    assert len({operation.kind for _, operation in taken}) == 1
    assert sum(len(operation.data) for _, operation in taken) <= 1000
    if taken[0][1].kind == "metrics" and len(taken) < len(mine):
        after = mine[len(taken)][1]
        assert after.kind != "metrics" or sum(len(o.data) for _, o in taken) + len(after.data) > 1000


def test_retries_come_later_and_later() -> None:
    assert [tracking.retry_pause(n) for n in (0, 1, 2, 3, 9)] == [1.0, 2.0, 4.0, 8.0, 60.0]
