"""What ASHA saves and finds: `python -m benchmarks.asha [samples] [out_dir=FOLDER] [key=value ...]`.

Sweeps search_spaces/calculator.yaml twice, without ASHA into FOLDER/full and with it into FOLDER/asha, and prints the
iterations of each and the best configurations. The bar: a third of the iterations, and a best exact match within the
95% interval of the unpruned best. Then both of ASHA's rules are replayed on the unpruned sweep's curves, on simulated
time, for many orders in which the trials may come. A sweep that is in its folder already is not run again, and one
that was cut short goes on. Nothing is asserted.
"""

from __future__ import annotations

import heapq
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any

from benchmarks.trainees import machine
from popgpt.sweep.asha import AshaScheduler, scheduler
from popgpt.sweep.draws import sample
from popgpt.sweep.record import FILE, Record, read
from popgpt.sweep.runner import run_sweep
from popgpt.sweep.schema import Sweep
from popgpt.sweep.space import load_sweep
from popgpt.terminal.program import run
from popgpt.terminal.progress import describe_exact_match

SPACE = Path(__file__).parent.parent / "search_spaces" / "calculator.yaml"
SAMPLES = 16
ORDERS = 1000
WORKERS = (1, 2, 4)
RULES = ("promote", "stop")
Row = Mapping[str, Any]
Curves = Mapping[str, Sequence[Row]]


def swept(sweep: Sweep) -> dict[str, Any]:
    """The sweep.json of a finished sweep, which is run first where its folder doesn't hold it."""
    out_dir = Path(sweep.out_dir)
    record, started = Record(sweep, sample(sweep)), (out_dir / FILE).exists()
    if started:
        record.restore(read(out_dir))
    if record.unfinished():
        run_sweep(sweep, resume=started, force=False, retry_failed=False)
    return read(out_dir)


def replay(asha: AshaScheduler, curves: Curves, order: Sequence[str], workers: int) -> tuple[dict[str, int], float]:
    """How many of its rows each trial got to report under `asha`, and the seconds until the last one did.

    Args:
        curves: each trial's evaluations if it is never stopped, and by `train_seconds` when each comes after its start.
        order: in which the trials come.
        workers: how many run at a time.
    """
    now, idle, reported = 0.0, list(order), dict.fromkeys(order, 0)
    due: list[tuple[float, str]] = []

    def expect(name: str) -> None:
        passed = curves[name][reported[name] - 1]["train_seconds"] if reported[name] else 0.0
        heapq.heappush(due, (now + curves[name][reported[name]]["train_seconds"] - passed, name))

    def fill() -> None:
        while len(due) < workers and (name := asha.next(idle, running=bool(due))):
            idle.remove(name)
            asha.add(name)
            expect(name)

    fill()
    while due:
        now, name = heapq.heappop(due)
        row = curves[name][reported[name]]
        reported[name] += 1
        if asha.judge(name, row) and reported[name] < len(curves[name]):
            expect(name)
        elif asha.holds(name):
            idle.append(name)
        fill()
    return reported, now


def tell_sweeps(full: Row, asha: Row) -> None:
    """What each sweep took and found, beside the bars."""
    for name, content in (("unpruned", full), ("asha", asha)):
        top = content["best"]
        parameters = " ".join(f"{key}={value}" for key, value in top["config"].items())
        print(
            f"{name}: {content['iterations']:,} iterations, best {top['id']}: {describe_exact_match(top)}: {parameters}"
        )
    top, ratio = full["best"], asha["iterations"] / full["iterations"]
    inside = top["exact_match_low"] <= asha["best"]["exact_match"] <= top["exact_match_high"]
    print(f"iterations: {ratio:.3f} of the unpruned sweep's (bar: {1 / 3:.3f})")
    print(f"asha's best is {'' if inside else 'not '}within the interval of the unpruned best (bar: within)")


def tell_replays(sweep: Sweep, full: Row) -> None:
    """Both rules, for several numbers of workers: all trials, and any three quarters and any half of them."""
    curves = {trial["id"]: [row for row in trial["metrics"] if "exact_match" in row] for trial in full["trials"]}
    for count in (len(curves), 3 * len(curves) // 4, len(curves) // 2):
        print(f"\n{count} of the {len(curves)} trials, replayed in {ORDERS} orders: median (5% to 95%)")
        orders = [random.Random(number).sample(list(curves), count) for number in range(ORDERS)]
        for workers in WORKERS:
            for rule in RULES:
                spent, seconds, regrets, within = zip(
                    *(outcome(judge(sweep, rule), curves, order, workers) for order in orders), strict=True
                )
                costs = f"{middle(spent, 3)} of the iterations, {middle(seconds, 0)} s"
                finds = f"{mean(regrets):.2%} below the best on average, within its interval in {mean(within):.1%}"
                print(f"{workers} at a time, {rule:7}: {costs}, {finds}", flush=True)


def outcome(
    asha: AshaScheduler, curves: Curves, order: Sequence[str], workers: int
) -> tuple[float, float, float, bool]:
    """Of one replay: the share of all iterations, the seconds, how far the best that was found is below the best there
    was among those trials, and whether it lies within the interval of that.
    """
    reported, seconds = replay(asha, curves, order, workers)
    seen = [curves[name][:count] for name, count in reported.items() if count]
    spent = sum(rows[-1]["iteration"] for rows in seen) / sum(curves[name][-1]["iteration"] for name in order)
    found = max(row["exact_match"] for rows in seen for row in rows)
    top = max((row for name in order for row in curves[name]), key=lambda row: row["exact_match"])
    return spent, seconds, top["exact_match"] - found, found >= top["exact_match_low"]


def judge(sweep: Sweep, rule: str) -> AshaScheduler:
    """The scheduler that the sweep has under a rule."""
    assert sweep.asha
    found = scheduler(replace(sweep, asha=sweep.asha.model_copy(update={"rule": rule})))
    assert found
    return found


def middle(values: Sequence[float], digits: int) -> str:
    cuts = quantiles(values, n=20)
    return f"{median(values):.{digits}f} ({cuts[0]:.{digits}f} to {cuts[-1]:.{digits}f})"


def main(words: list[str]) -> None:
    samples = int(words.pop(0)) if words and words[0].isdigit() else SAMPLES
    folder = next((word.removeprefix("out_dir=") for word in words if word.startswith("out_dir=")), "sweeps/asha")
    given = [f"num_samples={samples}", "finalists=0", "mlflow_log=false"]
    given += [word for word in words if not word.startswith("out_dir=")]
    unpruned = load_sweep(
        SPACE, [*(w for w in given if not w.startswith("asha.")), "asha=null", f"out_dir={folder}/full"]
    )
    pruned = load_sweep(SPACE, [*given, f"out_dir={folder}/asha"])
    print(f"before: {machine()}", flush=True)
    full, asha = swept(unpruned), swept(pruned)
    print(f"after: {machine()}")
    tell_sweeps(full, asha)
    tell_replays(pruned, full)


if __name__ == "__main__":
    run(lambda _: main(sys.argv[1:]))
