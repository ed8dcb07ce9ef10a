"""What tracking costs training: `python -m benchmarks.tracking`. The bar is 2% of the training time.

The same run, alone in its process, without tracking and with an MLflow server that answers; that refuses for ten
seconds, then answers; or that takes five seconds an answer. Interleaved, so that a machine that slows down slows all of
them. The processor time of the training process tells of a busy machine what the clock does not: it leaves out the
process that sends.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from popgpt.terminal.program import run
from tests.services import Proxy, server

KINDS = ("none", "answers", "returns", "slow")
CONFIG = Path(__file__).parent.parent / "configs" / "calculator.yaml"
DELAY_SECONDS = 5.0
AWAY_SECONDS = 10.0


def train(folder: Path, name: str, kind: str, port: int, iterations: int) -> tuple[float, float]:
    """Seconds of one run: of training by the clock, and of processor time in its process."""
    proxy = Proxy(port)
    proxy.delay = DELAY_SECONDS if kind == "slow" else 0.0
    opening = threading.Timer(AWAY_SECONDS if kind == "returns" else 0.0, proxy.open)
    opening.start()
    words = [sys.executable, "-m", "popgpt.train", str(CONFIG), "--local", "device=cpu", "train_lines=20000"]
    sizes = [f"max_iters={iterations}", "eval_iters=8", "batch_size=16", "d_model=64"]
    places = [f"out_dir={folder / name}", f"data_dir={folder / 'data'}", f"mlflow_log={str(kind != 'none').lower()}"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": proxy.uri}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        process = subprocess.Popen([*words, *sizes, *places], env=environment, **silent)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        opening.cancel()
        opening.join()
        proxy.close()
    result = json.loads((folder / name / "result.json").read_text())
    return result["train_seconds"], used.ru_utime + used.ru_stime


def main() -> None:
    """Print each kind's training time as a ratio to the one without tracking in the same round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=800, help="of one run; 800 take 15 to 20 s on two cores")
    parser.add_argument("--kinds", nargs="+", choices=KINDS[1:], default=KINDS[1:], help="of server")
    args = parser.parse_args()
    kinds = (KINDS[0], *args.kinds)
    times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as place, server(Path(place)) as port:
        folder = Path(place)
        train(folder, "first", "none", port, 10)  # makes the dataset
        for number in range(args.rounds):
            for kind in kinds[number % len(kinds) :] + kinds[: number % len(kinds)]:
                clock, processor = train(folder, f"{kind}-{number}", kind, port, args.iterations)
                times[kind].append((clock, processor))
                print(f"round {number}, {kind}: {clock:.2f} s of training, {processor:.2f} s of processor", flush=True)
    for index, what in enumerate(("training time", "processor time of its process")):
        for kind in args.kinds:
            ratios = [ours[index] / bare[index] for ours, bare in zip(times[kind], times["none"], strict=True)]
            spread = f"range {min(ratios):.3f} to {max(ratios):.3f}, n={len(ratios)}"
            print(f"{kind}: {statistics.median(ratios):.3f} of the {what} without tracking ({spread})")


if __name__ == "__main__":
    run(lambda _: main())
