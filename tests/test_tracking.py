"""Tracking against real services: an SQLite store, an MLflow server that dies and comes back, W&B offline."""

import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from popgpt import tracking
from popgpt.config import Config, make_config
from popgpt.storage.folder import Folder
from popgpt.tracking import identity, process, sender
from popgpt.tracking.identity import Identity, TrackingFile
from popgpt.tracking.mlflow import Mlflow
from popgpt.tracking.process import Operation, TrackerProcess, UnsentError
from popgpt.tracking.run import Run
from popgpt.tracking.tracker import TRACKERS
from tests.services import Inside, client

CONFIG = make_config({})
SILENT = make_config({"mlflow_log": False})
WANDB = make_config({"mlflow_log": False, "wandb_log": True})


@pytest.fixture(autouse=True)
def senders_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    senders: dict[tuple[str, str], sender.Sender] = {}
    monkeypatch.setattr(tracking.run, "_senders", senders)
    monkeypatch.setattr(process, "NICENESS", 0)
    yield
    for one in senders.values():
        one.close()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: bytes) -> str:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "mlflow.db").write_bytes(empty_store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/store/mlflow.db")
    monkeypatch.setattr(sender, "TrackerProcess", Inside)
    return tracking.tracking_uri()


def begin(config: Config = CONFIG, name: str = "a run", **more: Any) -> Run:
    given: dict[str, Any] = {"params": {"d_model": 64}, "experiment": "tests"}
    return tracking.start(config, name=name, **(given | more))


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
    assert tracking.flush(600)

    api = client(store)
    seen = api.get_run(run.id)
    assert seen.info.run_name == "a run"
    assert seen.info.status == "KILLED"
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
    kept = identity.read(Folder(tmp_path / "run"))
    assert kept
    assert (kept.ids["mlflow"], kept.parent, kept.status) == (run.id, parent.id, "stopped")


@pytest.mark.parametrize(
    ("status", "shown"),
    [("completed", "FINISHED"), ("stopped", "KILLED"), ("failed", "FAILED"), ("interrupted", "KILLED")],
)
def test_statuses_are_true(store: str, status: str, shown: str) -> None:
    run = begin()
    run.finish(status)
    assert tracking.flush(600)
    seen = client(store).get_run(run.id)
    assert (seen.info.status, seen.data.tags["status"]) == (shown, status)


def test_a_run_that_is_held_is_scheduled_and_lasts_as_long_as_it_trained(store: str) -> None:
    run = begin()
    run.log([{"iteration": 1, "x": 1.0, "train_seconds": 2.5}])
    for status, shown in (("paused", "SCHEDULED"), ("running", "RUNNING")):
        run.set_status(status)
        assert tracking.flush(600)
        seen = client(store).get_run(run.id)
        assert (seen.info.status, seen.data.tags["status"]) == (shown, status)
    run.log([{"iteration": 2, "x": 1.0, "train_seconds": 4.0}])
    run.finish("stopped", {"iteration": 1, "x": 1.0, "train_seconds": 2.5})
    assert tracking.flush(600)
    ended = client(store).get_run(run.id).info
    assert ended.end_time - ended.start_time == 4000


def test_a_sweeps_parent_has_its_winners_parameters_and_scores_on_test(store: str, tmp_path: Path) -> None:
    scores = {"exact_match": 0.5, "exact_match_n": 60, "val_loss": 1.5, "by_operation": {"+": {"exact_match": 0.25}}}

    def sweep(rate: float, iterations: int, **more: float) -> Any:
        run = begin(folder=tmp_path, params={}, resume=True)
        params = {"learning_rate": rate, "d_model": 64}
        told = {**scores, "iteration": iterations, **more}
        run.finish("completed", told, {"best_trial": f"of {rate}"}, params, split="test")
        assert tracking.flush(600)
        return client(store).get_run(run.id).data

    first = sweep(0.1, 100)
    assert first.params == {"learning_rate": "0.1", "d_model": "64"}
    measured = {"test_exact_match": 0.5, "test_exact_match_n": 60, "test_loss": 1.5, "test_exact_match/add": 0.25}
    assert first.metrics == measured
    assert not [tag for tag in first.tags if tag.startswith("winner/")]
    other = sweep(0.2, 200, exact_match=0.75)
    assert (other.params, other.metrics) == (first.params, {**measured, "test_exact_match": 0.75})
    assert other.tags["best_trial"] == "of 0.2"
    assert {tag: value for tag, value in other.tags.items() if tag.startswith("winner/")} == {
        "winner/learning_rate": "0.2"
    }
    assert "Another trial won" in other.tags["mlflow.note.content"]
    assert sweep(0.1, 300).tags["winner/learning_rate"] == "0.1", "the first has won again"


def test_a_resumed_run_is_the_same_run(store: str, tmp_path: Path) -> None:
    first = begin(folder=tmp_path, params={"max_iters": 5})
    first.finish("interrupted")
    assert tracking.flush(600)
    again = begin(folder=tmp_path, params={"max_iters": 9, "new": 1}, resume=True)
    again.log([{"iteration": 1, "x": 1.0}])
    assert tracking.flush(600)
    seen = client(store).get_run(first.id)
    assert again.id == first.id
    assert seen.info.status == "RUNNING"
    assert seen.data.params == {"max_iters": "5", "new": "1"}
    other = begin(folder=tmp_path)
    assert tracking.flush(600)
    assert other.id not in (None, first.id), "without resume it is a new run"


def test_a_deleted_experiment_comes_back(store: str) -> None:
    begin().finish("completed")
    assert tracking.flush(600)
    api = client(store)
    api.delete_experiment(api.get_experiment_by_name("tests").experiment_id)
    run = begin()
    assert tracking.flush(600)
    assert api.get_run(run.id)


def test_what_the_service_refuses_is_set_aside(store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = begin(folder=tmp_path / "run")
    run.artifact(tmp_path / "missing.pt")
    run.log([{"iteration": 1, "x": 1.0}])
    run.finish("completed")
    assert not tracking.flush(600)
    seen = client(store).get_run(run.id)
    assert (seen.info.status, seen.data.metrics) == ("FINISHED", {"x": 1.0})
    (warned,) = caplog.messages
    assert warned == (
        "MLflow refuses the artifact of a run (No such file); the run goes on, and what is unsent at its end, "
        f"send by `python -m popgpt.track sync {tmp_path / 'run'}`"
    )


def test_logging_waits_for_no_answer_and_many_rows_go_in_few_calls(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answering, answered = threading.Event(), []

    class Slow(Inside):
        def ask(self, run: Identity, operation: Operation) -> Any:
            answering.wait(60)
            answered.append(operation.kind)
            return super().ask(run, operation)

    monkeypatch.setattr(sender, "TrackerProcess", Slow)
    run = begin()
    for i in range(3000):
        run.log([{"iteration": i, "a": 1.0, "b": 2.0}])
    assert not answered
    answering.set()
    assert tracking.flush(600)
    assert answered[0] == "start"
    assert 6 <= answered.count("log_metrics") <= 8
    assert len(client(store).get_metric_history(run.id, "b")) == 3000


def test_a_request_that_fails_late_is_not_the_last(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was on its way when all was to be sent, to a server that comes back just then."""
    asked, failing = threading.Event(), threading.Event()

    class Late(Inside):
        def ask(self, run: Identity, operation: Operation) -> Any:
            if not failing.is_set():
                asked.set()
                failing.wait(60)
                raise UnsentError("timed out")
            return super().ask(run, operation)

    monkeypatch.setattr(sender, "TrackerProcess", Late)
    run = begin()
    assert asked.wait(60)
    hurried = run.senders[0].hurry
    monkeypatch.setattr(run.senders[0], "hurry", lambda: (hurried(), failing.set()))
    assert tracking.flush(600)
    assert run.id


class Unsure(Inside):
    """A way to the service on which requests and answers get lost."""

    chance = random.Random(1)

    def ask(self, run: Identity, operation: Operation) -> Any:
        if self.chance.random() < 0.3:
            raise UnsentError("lost on the way there")
        answer = super().ask(run, operation)
        if self.chance.random() < 0.3:
            raise UnsentError("lost on the way back")
        return answer


def test_requests_and_answers_that_get_lost_double_nothing(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sender, "TrackerProcess", Unsure)
    monkeypatch.setattr(sender, "pause", lambda failures: 0.01)
    (tmp_path / "config.yaml").write_text("x")
    run = begin(folder=tmp_path)
    for i in range(200):
        run.log([{"iteration": i, "x": i / 7, "train_seconds": i / 3}])
        time.sleep(0.001)
    run.artifact(tmp_path / "config.yaml")
    run.finish("completed", {"iteration": 199, "x": 1.0})
    for _ in range(100):
        if tracking.flush(600):
            break
    api = client(store)
    (seen,) = api.search_runs([api.get_experiment_by_name("tests").experiment_id])
    assert seen.info.run_id == run.id
    assert sorted(value.step for value in api.get_metric_history(run.id, "x")) == list(range(200))
    assert [value.step for value in api.get_metric_history(run.id, "final_x")] == [199]
    assert len(caplog.records) == 1


def test_what_a_killed_process_did_not_send_is_sent_once_the_run_goes_on(store: str, tmp_path: Path) -> None:
    rows = [{"iteration": i, "x": i / 7, "train_seconds": float(i)} for i in range(1, 9)]
    killed = begin(folder=tmp_path)
    killed.log(rows[:2])
    killed.log(rows[4:6])  # 3 and 4 were in its memory, 5 and 6 are trained again
    assert tracking.flush(600)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:4]) + '{"iter')
    run = begin(folder=tmp_path, resume=True)
    run.log([{**row, "train_seconds": 100.0} for row in rows[4:]])
    assert tracking.flush(600)
    assert run.id == killed.id
    history = client(store).get_metric_history(run.id, "x")
    assert sorted((value.step, value.value) for value in history) == [(row["iteration"], row["x"]) for row in rows]


def test_rows_that_a_process_logs_again_are_recorded_once(store: str) -> None:
    run = begin()
    for seconds in (1.0, 2.0):  # a group of workers that was restarted
        run.log([{"iteration": 1, "x": 0.5, "train_seconds": seconds}])
        assert tracking.flush(600)
    assert len(client(store).get_metric_history(run.id, "train_seconds")) == 1


def test_a_run_whose_id_was_lost_is_found_again(store: str, tmp_path: Path) -> None:
    first = begin(folder=tmp_path)
    assert tracking.flush(600)
    kept = identity.read(Folder(tmp_path))
    assert kept
    kept.ids = {}
    identity.write(Folder(tmp_path), kept)
    again = begin(folder=tmp_path, resume=True)
    assert tracking.flush(600)
    assert again.id == first.id


def test_training_is_not_held_up_by_what_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do the arguments of the process that imports it hold a password."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:CANARY@127.0.0.1:9/?token=CANARY")
    code = (
        "import sys; from popgpt import tracking; from popgpt.config import make_config\n"
        "run = tracking.start(make_config({}), experiment='e', name='n', params={})\n"
        "tracking.flush(600); assert 'mlflow' not in sys.modules\n"
        "import subprocess; pid = run.senders[0]._process._process.pid\n"
        "subprocess.run(['ps', '-ww', '-o', 'args', '-p', str(pid)], check=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("MLflow does not answer (Connection refused)") == 1
    assert "popgpt.tracking.process" in done.stdout
    assert "CANARY" not in done.stdout + done.stderr


@contextmanager
def last_in_line(monkeypatch: pytest.MonkeyPatch) -> Iterator[TrackerProcess]:
    """A process that sends, at the priority that it has while a run trains."""
    monkeypatch.setattr(process, "NICENESS", 19)
    helper = TrackerProcess(TRACKERS["mlflow"].tracker, "http://127.0.0.1:9", replaceable=True)
    try:
        helper._start()
        assert niceness(helper) == 19
        yield helper
    finally:
        helper.kill()
        helper.close()


def forbidden(*arguments: int) -> None:
    raise PermissionError


def niceness(helper: TrackerProcess) -> int:
    assert helper._process
    return os.getpriority(os.PRIO_PROCESS, helper._process.pid)


@pytest.mark.skipif(os.geteuid() != 0, reason="to lower a niceness takes a privilege")
def test_a_process_that_is_waited_for_is_hastened(monkeypatch: pytest.MonkeyPatch) -> None:
    with last_in_line(monkeypatch) as helper:
        helper.raise_priority()
        assert niceness(helper) == os.getpriority(os.PRIO_PROCESS, 0)


def test_a_process_that_may_not_be_hastened_is_replaced_when_it_waits_for_a_core(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with last_in_line(monkeypatch) as helper:
        with monkeypatch.context() as without_privilege:
            without_privilege.setattr(os, "setpriority", forbidden)
            helper.raise_priority()
        helper.replace_if_starved()
        assert helper._process
        assert helper._process.poll() is None, "it waits for requests, not for a core"
        monkeypatch.setattr(process, "cpu_wait", lambda pid: (time.monotonic(), 2 * time.monotonic()))
        helper.replace_if_starved()
        assert helper._process.wait(60) == -signal.SIGKILL
        helper.close()
        helper._start()
        assert niceness(helper) == os.getpriority(os.PRIO_PROCESS, 0)


STARVED = """
import ctypes, os, subprocess, sys
if "again" not in sys.argv:
    ctypes.CDLL(None).prctl(24, 23, 0, 0, 0)  # no CAP_SYS_NICE for what is executed: root may then what others may
    os.execv(sys.executable, [sys.executable, "-c", sys.orig_argv[2], "again"])
from popgpt import tracking
from popgpt.config import make_config
from popgpt.tracking.process import TrackerProcess
core, start = {min(os.sched_getaffinity(0))}, TrackerProcess._start
busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
os.sched_setaffinity(busy.pid, core)
def beside_it(self):
    start(self)
    if not self._raised:
        os.sched_setaffinity(self._process.pid, core)
TrackerProcess._start = beside_it
try:
    tracking.start(make_config({}), experiment="e", name="n", params={})
    tracking.flush(100)
finally:
    busy.kill()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody counts how long a process waits for a core")
def test_a_process_that_gets_no_turn_is_replaced_at_the_runs_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy core, without the privilege to raise it: it would import MLflow for minutes."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    done = subprocess.run([sys.executable, "-c", STARVED], capture_output=True, text=True, check=True)
    assert "MLflow does not answer (Connection refused)" in done.stderr


def test_a_process_that_sends_and_dies_is_replaced(
    tmp_path: Path, empty_store: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    run = begin()
    assert tracking.flush(600)
    run.senders[0]._process.kill()
    run.log([{"iteration": 1, "x": 1.0}])
    assert tracking.flush(600)
    assert len(client(tracking.tracking_uri()).get_metric_history(run.id, "x")) == 1


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("refused", "does not answer (Connection refused)"),
        ("silent", "has not answered in time"),
        ("forbidden", "refuses the start of a run (API request"),
        ("no store", "does not answer (File exists)"),
        ("read-only", "refuses the start of a run (attempt to write a readonly database)"),
    ],
)
def test_a_service_that_does_not_record_costs_one_warning(
    kind: str, said: str, tmp_path: Path, empty_store: bytes, unavailable: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(sender, "TrackerProcess", Inside)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(empty_store)
    stores = {"no store": f"{tmp_path}/file/x.db", "read-only": f"file:{tmp_path}/file?mode=ro&uri=true"}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{stores[kind]}" if kind in stores else unavailable(kind))
    run = begin(folder=tmp_path / "run")
    run.log([{"iteration": 1, "x": 1.0}])
    run.finish("completed")
    for _ in range(2):
        begun = time.monotonic()
        assert not tracking.flush(2 if kind == "silent" else 600)
        assert time.monotonic() - begun < 300, "it gives up before its time is over"
    assert run.id is None
    kept = identity.read(Folder(tmp_path / "run"))
    assert kept
    assert (kept.status, kept.ids, kept.params) == ("completed", {}, {"d_model": "64"})
    (warned,) = (record for record in caplog.records if record.name == "popgpt")
    assert warned.levelno == logging.WARNING
    assert warned.getMessage().startswith(f"MLflow {said}")


CANARY = "c4n4ry/x"  # another text where it is quoted


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (f"http://user:{quote(CANARY, safe='')}@127.0.0.1:9", "does not answer (Connection refused)"),
        (f"http://127.0.0.1:9/?token={quote(CANARY, safe='')}", "does not answer (Connection refused)"),
        (f"http://user:{CANARY}@127.0.0.1:port", ""),
        (f"postgresql://user:{CANARY}@127.0.0.1:port/db", ""),
        (f"postgresql://user:{CANARY}@127.0.0.1/db", "refuses the start of a run (it needs the module psycopg"),
        (f"mysql+pymysql://127.0.0.1/db?password={CANARY}", "refuses the start of a run (it needs the module pymysql:"),
    ],
)  # fmt: skip
def test_no_secret_of_an_address_is_said_or_kept(
    uri: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("psycopg", "psycopg2", "pymysql"):
        monkeypatch.setitem(sys.modules, name, None)  # as where it is not installed
    monkeypatch.setattr(sender, "TrackerProcess", Inside)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run = begin(folder=tmp_path)
    run.finish("completed")
    assert not tracking.flush(60)
    assert f"MLflow {said}" in caplog.text
    kept = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "127.0.0.1" in kept
    assert "c4n4ry" not in kept + caplog.text + tracking.ui_command()


def test_a_store_whose_making_is_cut_short_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.store.db import utils

    def killed(engine: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(utils, "_upgrade_db", killed)
    with pytest.raises(KeyboardInterrupt):
        Mlflow(f"sqlite:///{tmp_path}/mlflow.db")
    assert not list(tmp_path.glob("*.db")), "MLflow can't open one that is half made"


@pytest.fixture
def unavailable() -> Iterator[Callable[[str], str]]:
    """Makes the address of a server that is `refused`, `silent` or `forbidden`."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))

        def forbid() -> None:
            body = b"read-only"
            answer = b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
            while True:
                try:
                    with listener.accept()[0] as connection:
                        connection.recv(1 << 16)
                        connection.sendall(answer)
                except OSError:
                    return

        def make(kind: str) -> str:
            if kind != "refused":
                listener.listen()
            if kind == "forbidden":
                threading.Thread(target=forbid, daemon=True).start()
            return f"http://127.0.0.1:{listener.getsockname()[1]}"

        yield make


def test_wandb_takes_runs_side_by_side_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    runs = [begin(WANDB, name=f"run{i}", folder=tmp_path / str(i), params={"d_model": i}) for i in range(2)]
    (tmp_path / "result.json").write_text("{}")
    for i, run in enumerate(runs):
        run.log([{"iteration": 7, "train_loss": 0.5 + i}])
        run.artifact(tmp_path / "result.json")
        run.finish("completed", {"exact_match": 0.25, "iteration": 7})
    assert tracking.flush(600)
    for i in range(2):
        (log,) = (tmp_path / str(i)).rglob("*.wandb")
        words = {b"train_loss", b"final_exact_match", f"run{i}".encode(), b"completed"}
        for _ in range(1200):  # W&B's own process writes the file, a little after
            found = {word for word in words if word in log.read_bytes()}
            if found == words:
                break
            time.sleep(0.1)
        assert found == words


def test_wandb_without_a_key_is_refused_and_never_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run = begin(WANDB)
    run.finish("completed")
    assert not tracking.flush(600)
    assert "W&B refuses the start of a run (no W&B key" in caplog.text


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


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["log_metrics", "set_status"]), st.integers(1, 700)), min_size=1
    )
)
def test_a_call_keeps_the_order_of_its_run_and_the_limit(kinds: list[tuple[int, str, int]]) -> None:
    runs = [TrackingFile(Identity("u", "e", str(i))) for i in range(3)]
    queue = [(runs[i], Operation(kind, [[0] * size])) for i, kind, size in kinds]
    taken = sender.head(queue)
    run = queue[0][0]
    mine = [item for item in queue if item[0] is run]
    assert taken == mine[: len(taken)]
    assert len({operation.kind for _, operation in taken}) == 1
    assert sum(len(operation.data[0]) for _, operation in taken) <= 1000
    if taken[0][1].kind == "log_metrics" and len(taken) < len(mine):
        after = mine[len(taken)][1]
        assert after.kind != "log_metrics" or sum(len(o.data[0]) for _, o in taken) + len(after.data[0]) > 1000


def test_retries_come_later_and_later() -> None:
    assert [sender.pause(n) for n in (0, 1, 2, 3, 9)] == [5.0, 2.0, 4.0, 8.0, 60.0]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"uri": "u"', '{"uri": "u", "experiment": "e", "name": "n", "unsent": {"mlflow": []}}']
)
def test_whatever_tracking_json_holds_a_run_is_begun(store: str, tmp_path: Path, text: str) -> None:
    (tmp_path / "tracking.json").write_text(text)
    run = begin(folder=tmp_path, resume=True)
    assert tracking.flush(600)
    assert client(store).get_run(run.id).info.status == "RUNNING"
