"""Nodes that are lost while a run trains: it goes on with fewer, or can be interrupted while it waits for more."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import ScalingConfig

from popgpt.cluster import session
from popgpt.data.dataset import ensure_dataset
from popgpt.storage.folder import Folder
from popgpt.training.folder import last_state, read_result
from popgpt.training.loop import fit
from popgpt.training.world import World
from tests.cluster.test_faults import Make, train
from tests.moments import RUN
from tests.nodes import cluster
from tests.runs import losses

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def test_a_group_goes_on_with_fewer_nodes_and_takes_back_one_that_returns(
    tiny: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Train looks for more nodes every minute, here every second."""
    scaling = partial(ScalingConfig, elastic_resize_monitor_interval_s=1.0)
    monkeypatch.setattr("popgpt.cluster.group.ScalingConfig", scaling)
    shape = {"max_iters": 60, "eval_interval": 4, "batch_size": 384, "d_model": 64, "dataset": "calculator-nodes"}
    alone = tiny(**shape, out_dir=str(tmp_path / "alone"))
    fit(alone, ensure_dataset(alone), World(torch.device("cpu")))
    config = tiny(**shape, workers=2, min_workers=1)
    lost: list[Any] = []
    caplog.set_level("INFO", "popgpt")
    with cluster(0, 1, 1) as nodes, session.connected():

        def replace_a_node() -> bool:
            """Asked whether to stop, it takes a node away, and once training goes on without it adds one."""
            if len(nodes.worker_nodes) == 2 and not lost and last_state(Folder(config.out_dir)):
                lost.append(random.Random(0).choice(sorted(nodes.worker_nodes, key=str)))
                nodes.remove_node(lost[0], allow_graceful=False)
            if len(nodes.worker_nodes) == 1 and going_on(caplog):
                nodes.add_node(num_cpus=1)
            return False

        result = train(config, replace_a_node)
        assert len(nodes.worker_nodes) == 2
    assert result["status"] == "completed"
    alone_again, *together = going_on(caplog)
    assert "workers" not in alone_again, "one worker goes on alone"
    assert together
    assert together[-1].endswith("on 2 workers")
    assert losses(config) == pytest.approx(losses(alone), rel=1e-5)


def test_a_group_that_waits_for_a_node_to_return_can_be_interrupted(
    tiny: Make, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny(**{**RUN, "max_iters": 1_000_000})
    with cluster(0, 1, 1) as nodes, session.connected():

        def lose_a_node() -> bool:
            if len(nodes.worker_nodes) == 2 and read_result(Folder(config.out_dir)):
                nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
            return "the workers failed" in caplog.text

        with pytest.raises(KeyboardInterrupt):
            train(config, lose_a_node)
    assert read_result(Folder(config.out_dir))["status"] == "interrupted"


def going_on(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of going on from a state."""
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("going on with the run")]
