"""How long `--help` takes beyond Python's own start: `python -m benchmarks.startup`. The bar is half a second."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from popgpt.terminal.program import run

ENTRIES = ("train", "tune", "prepare", "evaluate", "sample", "explain", "track")
RUNS = 9


def seconds(arguments: list[str]) -> float:
    """Wall seconds of one Python process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Interleave every entry's --help with a bare Python, and print medians and ranges of the differences."""
    beyond: dict[str, list[float]] = {entry: [] for entry in ENTRIES}
    for _ in range(RUNS):
        bare = seconds(["-c", "pass"])
        for entry in ENTRIES:
            beyond[entry].append(seconds(["-m", f"popgpt.{entry}", "--help"]) - bare)
    for entry, times in beyond.items():
        print(
            f"popgpt.{entry} --help: {statistics.median(times):.3f} s beyond Python's start "
            f"(range {min(times):.3f} to {max(times):.3f}, n={RUNS})"
        )


if __name__ == "__main__":
    run(lambda _: main())
