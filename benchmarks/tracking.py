"""What tracking costs training: `python -m benchmarks.tracking`. The bar is 2% of the training time.

The same run, alone in its process, without tracking and with an MLflow server that answers, refuses, or takes five
seconds an answer; interleaved, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.services import Proxy, server

KINDS = ("none", "answers", "refuses", "slow")
CONFIG = Path(__file__).parent.parent / "configs" / "calculator.yaml"
DELAY_SECONDS = 5.0


def train(folder: Path, name: str, kind: str, port: int, iterations: int) -> tuple[float, float]:
    """Seconds of one run: those of training, and those of the whole process."""
    proxy = Proxy(port)
    proxy.delay = DELAY_SECONDS if kind == "slow" else 0.0
    if kind in ("answers", "slow"):
        proxy.open()
    words = [sys.executable, "-m", "popgpt.train", str(CONFIG), "--local", "device=cpu", "train_lines=20000"]
    sizes = [f"max_iters={iterations}", "eval_iters=8", "batch_size=16", "d_model=64"]
    places = [f"out_dir={folder / name}", f"data_dir={folder / 'data'}", f"mlflow_log={str(kind != 'none').lower()}"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": proxy.uri}
    try:
        subprocess.run([*words, *sizes, *places], env=environment, check=True, capture_output=True)
    finally:
        proxy.close()
    result = json.loads((folder / name / "result.json").read_text())
    return result["train_seconds"], result["wall_seconds"]


def main() -> None:
    """Print each kind's training time as a ratio to the one without tracking in the same round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=800, help="of one run; 800 take 15 to 20 s on two cores")
    args = parser.parse_args()
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as place, server(Path(place)) as port:
        folder = Path(place)
        train(folder, "first", "none", port, 10)  # makes the dataset
        for number in range(args.rounds):
            for kind in KINDS[number % 4 :] + KINDS[: number % 4]:
                seconds, wall = train(folder, f"{kind}-{number}", kind, port, args.iterations)
                times[kind].append(seconds)
                print(f"round {number}, {kind}: {seconds:.2f} s of training, {wall:.2f} s in all", flush=True)
    for kind in KINDS[1:]:
        ratios = [with_it / without for with_it, without in zip(times[kind], times["none"], strict=True)]
        spread = f"range {min(ratios):.3f} to {max(ratios):.3f}, n={len(ratios)}"
        print(f"{kind}: {statistics.median(ratios):.3f} of the training time without tracking ({spread})")
    alone = times["none"]
    print(f"without tracking: median {statistics.median(alone):.2f} s (range {min(alone):.2f} to {max(alone):.2f})")


if __name__ == "__main__":
    main()
