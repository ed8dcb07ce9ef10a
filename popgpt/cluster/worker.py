"""What each worker of a group runs: join the process group as a World, `fit`, tell the driver.

The driver sends `train_worker` by its name. It needs no torch, so what needs it is imported in the functions.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import ray

from popgpt.cluster.channel import RowLogged, RunEnded, RunRefused, StopFlag, TextLogged, WorkerStarted, send
from popgpt.cluster.process import limit_exit_time, take_cores
from popgpt.config import make_config
from popgpt.storage.folder import Folder
from popgpt.text.errors import UserError
from popgpt.training import folder

if TYPE_CHECKING:
    import torch


def train_worker(settings: dict[str, Any]) -> None:
    """Train as one worker of a group that Ray Train started, or started again."""
    from popgpt.data.dataset import dataset_path, open_dataset
    from popgpt.training.loop import fit
    from popgpt.training.world import World

    limit_exit_time()
    config, channel = make_config(settings["config"]), settings["channel"]
    take_cores(settings["cpus"])
    world = World.joined(own_device(settings["gpu"]))
    send(channel, WorkerStarted(ray.get_runtime_context().current_actor))
    try:
        folder.check_shared(Folder(config.out_dir), settings["token"], ray.util.get_node_ip_address())
        dataset = open_dataset(dataset_path(config))
        if world.is_main:
            send_logs(channel)
            stop, settled = StopFlag(channel), settings["settled"]
            result = fit(config, dataset, world, lambda row: send(channel, RowLogged(row)), stop, settled)
            ray.get(send(channel, RunEnded(result)))
        else:
            fit(config, dataset, world)
    except UserError as error:
        ray.get(send(channel, RunRefused(str(error))))
        raise


def own_device(gpu: bool) -> torch.device:
    """Return the device that Ray gave this worker, which CUDA then takes where none is named."""
    import torch

    if not gpu:
        return torch.device("cpu")
    from ray.train.torch import get_device

    device = get_device()
    torch.cuda.set_device(device)
    return device


def send_logs(channel: Any) -> None:
    """Have the driver show what popgpt's modules log here."""
    logger = logging.getLogger("popgpt")
    logger.setLevel(logging.INFO)
    logger.addHandler(ChannelHandler(channel))


class ChannelHandler(logging.Handler):
    """Sends what a worker's modules log to its driver."""

    def __init__(self, channel: Any):
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        send(self._channel, TextLogged(record.levelno, record.getMessage()))
