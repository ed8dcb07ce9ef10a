"""Why a group failed, out of what Ray Train says of each worker."""

from __future__ import annotations

import pytest
import ray
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from popgpt.cluster.controller import describe_cause

BROKEN = RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:1234")


def dead(error: Exception) -> WorkerHealthCheckFailedError:
    return WorkerHealthCheckFailedError("a health check failed", error)


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        ({1: dead(ray.exceptions.ActorDiedError()), 0: BROKEN}, "a worker's process died"),
        ({0: dead(ray.exceptions.ActorUnavailableError("gone", None))}, "a worker's process died"),
        ({1: dead(ray.exceptions.OutOfMemoryError("x")), 0: BROKEN}, "a worker was killed for want of memory"),
        ({0: BROKEN, 1: ValueError("first\nit is wrong")}, "it is wrong"),
        ({0: BROKEN, 1: RuntimeError("gloo: Timed out waiting 1000ms")}, "the connection between workers broke"),
        ({0: ZeroDivisionError()}, "ZeroDivisionError"),
    ],
)
def test_the_cause_is_told_in_one_line(failures: dict[int, Exception], said: str) -> None:
    assert describe_cause(failures) == said
