"""What a run would see and cost, without running it: `python -m popgpt.explain CONFIG_OR_SPACE [key=value ...]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from popgpt.config import Config, as_yaml, flat, load_config, read_yaml, where_from
from popgpt.terminal import arguments, program
from popgpt.text.printable import printable

if TYPE_CHECKING:
    from popgpt.sweep.schema import Sweep


def main(argv: Sequence[str] | None = None) -> int:
    """Explain as the command line says. Returns the exit code."""
    parser = arguments.config_parser("explain", "What a run or a sweep would see and cost, without running it.")
    parser.add_argument("--no-probe", action="store_true", help="leave out the short run that measures time and memory")
    args = parser.parse_intermixed_args(argv)

    from rich.console import Console

    from popgpt.data.batches import make_rows
    from popgpt.data.dataset import ensure_dataset
    from popgpt.sweep.budget import describe_budget, describe_domains
    from popgpt.sweep.space import warnings
    from popgpt.training.preview import describe_cost, describe_model, describe_rows
    from popgpt.training.probe import probe

    console = Console(highlight=False, soft_wrap=True)
    sweep, config, sources = read(args.config, args.overrides)
    dataset = ensure_dataset(config)
    rows = make_rows(config, dataset, "train", config.seed)
    parts = describe_parameters(config, sources), describe_rows(config, dataset, rows), describe_model(config, dataset)
    for part in parts:
        console.print(*part, sep="\n", markup=False)
        console.print()
    if sweep:
        console.print(*describe_domains(sweep), "", sep="\n", markup=False)
        for warning in warnings(sweep):
            program.say(f"warning: {warning}")
    cost = None if args.no_probe else probe(config, dataset, rows)
    price = [*(describe_cost(config, cost) if cost else []), *(describe_budget(sweep, cost) if sweep else [])]
    console.print(*price, sep="\n", markup=False)
    return 0


def read(path: str, overrides: Sequence[str]) -> tuple[Sweep | None, Config, dict[str, str]]:
    """The sweep where `path` is a search space, the config to explain, and where each of its values comes from."""
    if "space" not in read_yaml(path):
        return None, arguments.absolute(load_config(path, overrides)), where_from(path, overrides)
    from popgpt.sweep import space

    sweep = space.load_sweep(path, overrides)
    return sweep, arguments.absolute(sweep.config()), space.where_from(sweep, path, overrides)


def describe_parameters(config: Config, sources: Mapping[str, str]) -> list[str]:
    """Each parameter, its value and where that comes from; the defaults last, on one line."""
    values = {name: printable(as_yaml(value)) for name, value in flat(config.model_dump()).items()}
    said = [name for name in values if sources.get(name, "default") != "default"]
    width = max((len(f"{name}={values[name]}") for name in said), default=0)
    lines = [f"  {f'{name}={values[name]}':<{width}}  {sources[name]}" for name in said]
    rest = ", ".join(f"{name}={values[name]}" for name in values if name not in said)
    return ["parameters", *lines, f"  defaults: {rest}"]


if __name__ == "__main__":
    program.run(main)
