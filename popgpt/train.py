"""Train one run: `python -m popgpt.train CONFIG [key=value ...] [--workers N] [--local]`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from popgpt import cli
from popgpt.config import Config, UserError, load_config

if TYPE_CHECKING:
    from popgpt.data.dataset import Dataset

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says. Returns the exit code."""
    parser = cli.config_parser("train", "Train one run, on Ray's workers or, with --local, in this process.")
    parser.add_argument("--workers", metavar="N", help="the same as workers=N")
    parser.add_argument("--local", action="store_true", help="train in this process, without Ray")
    args = parser.parse_intermixed_args(argv)
    workers = [f"workers={args.workers}"] if args.workers else []
    config = cli.absolute(load_config(args.config, [*args.overrides, *workers]))
    if args.local and config.workers > 1:
        raise UserError(f"--local is one process; workers={config.workers} needs Ray: leave out --local")
    result = train(config, args.local)
    print_result(config, result)
    return 0 if result["status"] == "completed" else 130


def train(config: Config, local: bool) -> Row:
    """Prepare what is missing, train, and record it. Returns what result.json holds."""
    from popgpt import tracking
    from popgpt.data.dataset import ensure_dataset
    from popgpt.progress import TrainingProgress, stop_on_interrupt
    from popgpt.training import folder

    folder.check_free(config)
    dataset = ensure_dataset(config)
    folder.write_config(config)
    record = tracking.start(
        config,
        experiment=config.experiment or config.dataset,
        name=config.wandb_run_name or Path(config.out_dir).name,
        params=config.model_dump(),
        tags={"dataset_fingerprint": dataset.meta.fingerprint},
        folder=config.out_dir,
        resume=config.init_from == "resume",
    )
    status, result = "failed", None
    try:
        with TrainingProgress(config) as progress, stop_on_interrupt() as should_stop:

            def report(row: Row) -> None:
                progress(row)
                record.log([row])

            fit_here = _fit_alone if local else _fit_on_ray
            result = fit_here(config, dataset, report, should_stop)
        status = result["status"]
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        for name in (folder.CONFIG, folder.RESULT, folder.BEST):
            if (Path(config.out_dir) / name).exists():
                record.artifact(Path(config.out_dir) / name)
        record.finish(status, result)
        tracking.flush()
    return result


def _fit_alone(config: Config, dataset: Dataset, report: Callable[[Row], None], should_stop: Callable[[], bool]) -> Row:
    from popgpt.training.loop import fit
    from popgpt.training.world import World, pick_device

    return fit(config, dataset, World(pick_device(config.device)), report, should_stop)


def _fit_on_ray(
    config: Config, dataset: Dataset, report: Callable[[Row], None], should_stop: Callable[[], bool]
) -> Row:
    from popgpt.cluster import session
    from popgpt.cluster.group import train_on_workers

    resources = session.connect().per_worker(config.workers, config.device)
    try:
        return train_on_workers(config, resources, report, should_stop)
    finally:
        session.disconnect()


def print_result(config: Config, result: Row) -> None:
    """What a person wants to know at the end."""
    from popgpt.progress import describe_scores

    if result["status"] == "interrupted":
        print(f"stopped at iteration {result['iterations']}; go on with init_from=resume and the same out_dir")
    if "exact_match" in result:
        print(f"iteration {result['iteration']}: {describe_scores(result)} validation lines")
        print(f"checkpoint: {result['checkpoint']}")
        print(f"next: python -m popgpt.evaluate {config.out_dir} --split test")


if __name__ == "__main__":
    cli.run(main)
