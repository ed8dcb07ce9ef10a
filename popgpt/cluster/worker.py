"""What each Ray process runs: world -> fit -> report."""

from __future__ import annotations

import logging
from typing import Any

import ray
import torch

from popgpt.cluster.channel import StopFlag
from popgpt.cluster.session import exit_surely, yield_cores
from popgpt.config import make_config
from popgpt.data.dataset import dataset_path, open_dataset
from popgpt.storage.folder import Folder
from popgpt.text.errors import UserError
from popgpt.training import folder
from popgpt.training.loop import fit
from popgpt.training.world import World


def work(settings: dict[str, Any]) -> None:
    """One worker of a group that Ray Train started, or started again."""
    from ray.train.torch import get_device

    exit_surely()
    config, channel = make_config(settings["config"]), settings["channel"]
    take_cores(settings["cpus"])
    world = World.joined(get_device() if settings["gpu"] else torch.device("cpu"))
    channel.push.remote({"begun": ray.get_runtime_context().current_actor})
    try:
        folder.check_shared(Folder(config.out_dir), settings["token"], ray.util.get_node_ip_address())
        dataset = open_dataset(dataset_path(config))
        if world.is_main:
            log_to(channel)
            stop, settled = StopFlag(channel), settings["settled"]
            result = fit(config, dataset, world, lambda row: channel.push.remote({"row": row}), stop, settled)
            ray.get(channel.push.remote({"result": result}))
        else:
            fit(config, dataset, world)
    except UserError as error:
        ray.get(channel.push.remote({"error": str(error)}))
        raise


def log_to(channel: Any) -> None:
    """Have the driver show what popgpt's modules log here."""
    logger = logging.getLogger("popgpt")
    logger.setLevel(logging.INFO)
    logger.addHandler(SentLog(channel))


class SentLog(logging.Handler):
    """Sends what a worker's modules log to its driver."""

    def __init__(self, channel: Any):
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        self._channel.push.remote({"logged": (record.levelno, record.getMessage())})


def take_cores(cpus: float) -> None:
    """Use this process's share of the cores, and no more; what Ray itself has to do waits for it."""
    yield_cores(False)
    torch.set_num_threads(max(1, int(cpus)))
