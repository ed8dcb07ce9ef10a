"""What the driver makes of the messages of a group's processes."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from ray import cloudpickle

from popgpt.cluster.channel import Message, RowLogged, RunEnded, RunRefused, TextLogged, WorkersFailed, WorkerStarted
from popgpt.cluster.controller import DEATH
from popgpt.cluster.group import GroupMonitor
from popgpt.config import Config
from popgpt.metrics.row import Row
from popgpt.text.errors import UserError

Make = Callable[..., Config]
OUT_OF_TIME = 1e9


@pytest.fixture
def rows() -> list[Row]:
    return []


@pytest.fixture
def monitor(tiny: Make, rows: list[Row]) -> GroupMonitor:
    return GroupMonitor(tiny(), rows.append)


def handle(monitor: GroupMonitor, *messages: Message) -> None:
    for message in messages:
        monitor.handle(cloudpickle.loads(cloudpickle.dumps(message)))


def test_each_row_is_reported_once_though_workers_that_start_again_send_it_again(
    monitor: GroupMonitor, rows: list[Row]
) -> None:
    first, second, third = ({"iteration": number} for number in (1, 2, 3))
    handle(monitor, RowLogged(first), RowLogged(second), WorkersFailed(DEATH), RowLogged(second), RowLogged(third))
    assert rows == [first, second, third]


def test_a_text_that_a_worker_logs_is_logged_here(monitor: GroupMonitor, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        handle(monitor, TextLogged(logging.INFO, "going on"))
    assert [(each.levelname, each.message) for each in caplog.records] == [("INFO", "going on")]


def test_a_result_ends_a_run_whatever_comes_after(monitor: GroupMonitor) -> None:
    handle(monitor, RunEnded({"status": "completed"}), WorkersFailed(DEATH))
    assert monitor.result_or_raise(None, stopping=False) == {"status": "completed"}


def test_what_a_worker_refuses_is_raised_as_it_is(monitor: GroupMonitor) -> None:
    handle(monitor, RunRefused("out_dir=x is in use"), WorkersFailed("out_dir=x is in use"))
    with pytest.raises(UserError, match=r"^out_dir=x is in use$"):
        monitor.result_or_raise(None, stopping=False)


@pytest.mark.parametrize(
    ("messages", "refused"),
    [
        ([WorkersFailed("it is wrong"), WorkersFailed("it is wrong")], True),
        ([WorkersFailed("it is wrong"), RowLogged({"iteration": 1}), WorkersFailed("it is wrong")], False),
        ([WorkersFailed("it is wrong"), WorkersFailed("it is wrong too")], False),
        ([WorkersFailed(DEATH), WorkersFailed(DEATH)], False),
    ],
)
def test_the_same_failure_at_the_same_iteration_is_not_tried_again(
    monitor: GroupMonitor, messages: list[Message], refused: bool
) -> None:
    handle(monitor, *messages)
    assert (monitor.refusal == "the workers failed twice in the same way: it is wrong") == refused


def test_workers_that_are_silent_for_too_long_are_killed_once(
    monitor: GroupMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[Any] = []
    monkeypatch.setattr("ray.kill", killed.append)
    monitor.kill_if_hanging(OUT_OF_TIME)
    handle(monitor, WorkerStarted("first"), WorkerStarted("second"))
    monitor.kill_if_hanging(0)
    assert killed == []
    for _ in range(2):
        monitor.kill_if_hanging(OUT_OF_TIME)
    assert killed == ["first", "second"]


def test_to_be_stopped_before_there_is_a_result_is_an_interrupt(monitor: GroupMonitor) -> None:
    with pytest.raises(KeyboardInterrupt):
        monitor.result_or_raise(None, stopping=True)


def test_who_sends_a_group_imports_no_torch() -> None:
    """Neither the driver nor the controller needs it, and each would import it for seconds of processor."""
    code = "import popgpt.cluster.group, popgpt.train, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
