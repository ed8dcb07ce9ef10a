"""What is told of a trial whose process died."""

from __future__ import annotations

import pytest

from popgpt.cluster.ray_internals import OUT_OF_MEMORY
from popgpt.sweep.trials import cause_of_death
from tests.conftest import tiny_config

MEMORY = (
    "out of memory with batch_size=4, block_size=32, d_model=16, n_layer=1: lower batch_size, and raise "
    "gradient_accumulation_steps by the same factor to train on as many rows an iteration"
)
KILLED_BY_RAY = f"Failure # 1 (occurred at 2026-11-23_12-28-08)\n{OUT_OF_MEMORY}\n"
GONE = (
    "Failure # 1 (occurred at 2026-11-23_12-28-08)\nThe actor died unexpectedly before finishing this task.\n"
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage"
)
RAISED = "Failure # 1 (occurred at 2026-11-23_12-28-08)\nTraceback (most recent call last):\n  File x\nKeyError: 'id'\n"


@pytest.mark.parametrize(
    ("account", "said"),
    [
        (KILLED_BY_RAY, f"the trial's process was killed: {MEMORY}"),
        (GONE, f"the trial's process died, maybe {MEMORY}"),
        (RAISED, "KeyError: 'id'"),
    ],
)
def test_a_failure_is_told_with_what_to_lower_where_that_may_help(account: str, said: str) -> None:
    assert cause_of_death(account, tiny_config()) == said
