"""How far numbers of workers are apart: `python -m benchmarks.worlds [iterations] [key=value ...]`.

Trains configs/calculator.yaml (50 iterations where no number is given) in one process and under Ray Train on 1, 2, 3
and 4 workers of one thread each. Prints the largest relative difference of a loss from that of the one process, for
Muon and for AdamW, or for the one that is named (optimizer=adamw). Nothing is asserted; tests/cluster/test_group.py
does that on a small model.
"""

from __future__ import annotations

import os
import sys
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"

import torch

from benchmarks.trainees import machine
from benchmarks.workers import CONFIG, own_ray
from popgpt.cluster.group import train_on_workers
from popgpt.config import Config, load_config
from popgpt.data.dataset import ensure_dataset
from popgpt.storage.folder import Folder
from popgpt.terminal.program import run
from popgpt.training.folder import read_metrics
from popgpt.training.loop import fit
from popgpt.training.world import World

ITERATIONS = 50
WORKERS = (1, 2, 3, 4)


def losses(config: Config) -> list[float]:
    """The losses that a run left."""
    return [row["train_loss"] for row in read_metrics(Folder(config.out_dir))]


def main(words: list[str]) -> None:
    iterations = int(words.pop(0)) if words and words[0].isdigit() else ITERATIONS
    given = [f"max_iters={iterations}", "lr_decay_iters=1000", f"eval_interval={iterations}", "eval_iters=1"]
    given += ["log_interval=1", "device=cpu", "dropout=0.1", *words]
    named = [word.partition("=")[2] for word in words if word.startswith("optimizer=")]
    print(machine(), flush=True)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, own_ray(max(WORKERS)):
        for optimizer in named or ("muon", "adamw"):
            places = [f"out_dir={folder}/{optimizer}", f"data_dir={folder}/data", f"optimizer={optimizer}"]
            alone = load_config(CONFIG, [*given, *places])
            fit(alone, ensure_dataset(alone), World(torch.device("cpu")))
            for workers in WORKERS:
                config = alone.model_copy(update={"workers": workers, "out_dir": f"{folder}/{optimizer}-{workers}"})
                train_on_workers(config, {"CPU": 1}, lambda row: None, lambda: False)
                apart = max(abs(a - b) / b for a, b in zip(losses(config), losses(alone), strict=True))
                print(f"{optimizer}, {workers} workers: {apart:.1e} in {iterations} iterations", flush=True)


if __name__ == "__main__":
    run(lambda _: main(sys.argv[1:]))
