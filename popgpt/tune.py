"""Sweep a search space: `python -m popgpt.tune SPACE [key=value ...] [--samples N] [--resume | --force]`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

from popgpt.terminal import arguments, program

logger = logging.getLogger("popgpt")


def main(argv: Sequence[str] | None = None) -> int:
    """Sweep as the command line says. Returns the exit code."""
    parser = arguments.Parser(
        prog="python -m popgpt.tune",
        description="Find the best configuration of a search space with Ray Tune and ASHA.",
        epilog=arguments.parameters_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("space", help="YAML file of the search space")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="the sweep's keys or the base config's; a swept one is pinned"
    )
    parser.add_argument("--samples", metavar="N", help="the same as num_samples=N; with --resume it may be larger")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--resume", action="store_true", help="go on with the sweep in out_dir")
    start.add_argument("--force", action="store_true", help="start anew; a sweep in out_dir is moved to OUT_DIR.old-N")
    parser.add_argument("--retry-failed", action="store_true", help="with --resume: run trials that failed again, too")
    args = parser.parse_intermixed_args(argv)
    if args.retry_failed and not args.resume:
        parser.error("--retry-failed goes with --resume")

    from popgpt.sweep.space import load_sweep, warnings

    samples = [f"num_samples={args.samples}"] if args.samples else []
    sweep = load_sweep(args.space, [*args.overrides, *samples])
    for warning in warnings(sweep):
        logger.warning("%s", warning)

    from popgpt.sweep.runner import run_sweep  # after what says in no time that the space is wrong

    return run_sweep(sweep, args.resume, args.force, args.retry_failed)


if __name__ == "__main__":
    program.run(main)
