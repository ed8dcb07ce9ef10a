"""What a run would see and cost, without running it: `python -m popgpt.explain CONFIG_OR_SPACE [key=value ...]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from popgpt.config import MOST, Config, flat, load_config, read_yaml, where_from
from popgpt.terminal import cli
from popgpt.text.printable import printable

if TYPE_CHECKING:
    from rich.text import Text

    from popgpt.data.batches import Batch, Rows
    from popgpt.data.dataset import Dataset
    from popgpt.lines.vocabulary import Vocabulary
    from popgpt.sweep.space import Sweep

SHOWN_ROWS = 3
COUNTED_ROWS = 4096
SHOWN_VALUES = 12


def main(argv: Sequence[str] | None = None) -> int:
    """Explain as the command line says. Returns the exit code."""
    parser = cli.config_parser("explain", "What a run or a sweep would see and cost, without running it.")
    parser.add_argument("--no-probe", action="store_true", help="leave out the short run that measures time and memory")
    args = parser.parse_intermixed_args(argv)

    from rich.console import Console

    from popgpt.data.batches import make_rows
    from popgpt.data.dataset import ensure_dataset
    from popgpt.sweep.space import warnings
    from popgpt.training.probe import probe

    console = Console(highlight=False, soft_wrap=True)
    sweep, config, sources = read(args.config, args.overrides)
    dataset = ensure_dataset(config)
    rows = make_rows(config, dataset, "train", config.seed)
    for part in (parameters(config, sources), sight(config, dataset, rows), model_size(config, dataset)):
        console.print(*part, sep="\n", markup=False)
        console.print()
    if sweep:
        console.print(*domains(sweep), "", sep="\n", markup=False)
        for warning in warnings(sweep):
            cli.say(f"warning: {warning}")
    cost = None if args.no_probe else probe(config, dataset, rows)
    price = [*(expenses(config, cost) if cost else []), *(budget(sweep, cost) if sweep else [])]
    console.print(*price, sep="\n", markup=False)
    return 0


def read(path: str, overrides: Sequence[str]) -> tuple[Sweep | None, Config, dict[str, str]]:
    """The sweep where `path` is a search space, the config to explain, and where each of its values comes from."""
    if "space" not in read_yaml(path):
        return None, cli.absolute(load_config(path, overrides)), where_from(path, overrides)
    from popgpt.sweep.space import load_sweep

    sweep = load_sweep(path, overrides)
    return sweep, cli.absolute(sweep.config()), where_swept_from(sweep, path, overrides)


def where_swept_from(sweep: Sweep, path: str, overrides: Sequence[str]) -> dict[str, str]:
    """For each parameter: swept, command line, search space, or where the base config has it from."""
    from popgpt.sweep.space import SweepFile

    words = dict(word.partition("=")[::2] for word in overrides)
    typed = {key.removeprefix("config.") for key in words if key not in SweepFile.model_fields}
    base = words.get("config") or Path(path).parent / read_yaml(path)["config"]
    sources = where_from(base)
    for name in flat(sweep.base):
        if name in typed:
            sources[name] = "command line"
        elif sources.get(name) != "file":
            sources[name] = "search space"
    return sources | dict.fromkeys(sweep.space, "swept")


def domains(sweep: Sweep) -> list[str]:
    """Each swept parameter, where its values come from, and when it is drawn."""
    width = max((len(name) for name in sweep.space), default=0)
    lines = []
    for name, domain in sweep.space.items():
        when = (
            f", when {domain.when[0]} is {' or '.join(map(str, map(cli.shown, domain.when[1])))}" if domain.when else ""
        )
        lines.append(f"  {name:<{width}}  {values_of(domain.kind, domain.values)}{when}")
    points = f"{len(sweep.points)} points to evaluate come first" if sweep.points else ""
    return ["swept", *lines, *([f"  {points}"] if points else [])]


def values_of(kind: str, values: Sequence[Any]) -> str:
    """A domain in words, such as `choice of 64, 96, 128`."""
    if kind == "divisors_of":
        of, low, high = values
        return f"divisors of {of}" + ("" if (low, high) == (1, MOST) else f", from {low} to {high}")
    if kind in ("choice", "grid"):
        shown = ", ".join(str(cli.shown(value)) for value in values[:SHOWN_VALUES])
        return f"{kind} of {shown}" + (f", ... ({len(values)} values)" if len(values) > SHOWN_VALUES else "")
    return f"{kind} from {values[0]} to {values[1]}"


def parameters(config: Config, sources: Mapping[str, str]) -> list[str]:
    """Each parameter, its value and where that comes from; the defaults last, on one line."""
    values = {name: printable(str(cli.shown(value))) for name, value in flat(config.model_dump()).items()}
    said = [name for name in values if sources.get(name, "default") != "default"]
    width = max((len(f"{name}={values[name]}") for name in said), default=0)
    lines = [f"  {f'{name}={values[name]}':<{width}}  {sources[name]}" for name in said]
    rest = ", ".join(f"{name}={values[name]}" for name in values if name not in said)
    return ["parameters", *lines, f"  defaults: {rest}"]


def sight(config: Config, dataset: Dataset, rows: Rows) -> list[str | Text]:
    """What training sees: a few rows, what is learned of them, and how full they are."""
    import numpy as np

    from popgpt.data.batches import IGNORE_INDEX, describe_too_long, mask_token

    mask = mask_token(config, dataset.meta)
    up_to = f"of {'each line' if config.mask_per_line else 'a row'} up to and including {mask!r}"
    masked = f"masked are the characters {up_to}" if mask else "nothing is masked: prompts are learned too"
    counted = min(rows.rows_per_epoch, COUNTED_ROWS)
    batch = rows.at(np.arange(counted))
    lines, tokens = (count / counted for count in rows.counts(batch))
    learned = (batch.targets != IGNORE_INDEX).sum() / counted
    each = config.rows_per_iteration
    epochs = config.max_iters * each / rows.rows_per_epoch
    too_long = describe_too_long(config, dataset.meta)
    return [
        f"rows of dataset {printable(str(dataset.path))}, the learned characters in green and [brackets]",
        *(show_row(batch, row, dataset.meta.vocabulary) for row in range(min(SHOWN_ROWS, counted))),
        f"  {masked}",
        f"  {lines * each:,.0f} lines, {tokens * each:,.0f} tokens, {learned * each:,.0f} learned, per iteration of "
        f"{each} rows",
        f"  {1 - tokens / config.block_size:.1%} of positions are padding; an epoch is {rows.rows_per_epoch:,} rows, "
        f"{config.max_iters:,} iterations are {epochs:.1f} epochs",
        *([f"  {too_long}"] if too_long else []),
    ]


def show_row(batch: Batch, row: int, vocabulary: Vocabulary) -> Text:
    """A row as text; learned characters are green on a terminal and in [brackets] everywhere."""
    from rich.text import Text

    shown = Text("  ")
    for character, learned in characters(batch, row, vocabulary):
        before = shown.plain[-1:] == "]"
        if learned and before:
            shown.right_crop(1)
        shown.append(("" if before or not learned else "[") + character, "bold green" if learned else "dim")
        if learned:
            shown.append("]", "dim")
    return shown


def characters(batch: Batch, row: int, vocabulary: Vocabulary) -> list[tuple[str, bool]]:
    """The characters of a row in reading order, and whether training learns to write each."""
    from popgpt.data.batches import IGNORE_INDEX

    tokens, targets, segments, _ = (array[row] for array in batch)
    read = []
    for place in range(int((segments >= 0).sum())):
        follows = place > 0 and segments[place] == segments[place - 1]
        read.append((vocabulary.characters[tokens[place]], bool(follows and targets[place - 1] != IGNORE_INDEX)))
        last = place + 1 == len(segments) or segments[place + 1] != segments[place]
        if last and targets[place] != IGNORE_INDEX:
            read.append((vocabulary.characters[targets[place]], True))
    return [("⏎" if character == "\n" else printable(character), learned) for character, learned in read]


def model_size(config: Config, dataset: Dataset) -> list[str]:
    """Parameters, and what the state of training takes."""
    from popgpt.model.gpt import GPT, parameter_count

    count = parameter_count(GPT(config, len(dataset.meta.vocabulary)))
    return [
        f"model of {count:,} parameters: {config.n_layer} layers, d_model {config.d_model}, "
        f"{config.n_head} heads of {config.d_head}, {len(dataset.meta.vocabulary)} characters"
    ]


def expenses(config: Config, cost: Mapping[str, float]) -> list[str]:
    """What a run costs on this machine, in words."""
    evaluations = -(-config.max_iters // config.eval_interval)
    training, evaluating = config.max_iters * cost["iteration"], evaluations * cost["evaluation"]
    return [
        f"cost here, one process, from a probe: {cost['iteration'] * 1000:.0f} ms an iteration, "
        f"{cost['evaluation']:.2f} s an evaluation, {cost['memory'] / 2**20:,.0f} MiB at peak",
        f"  {config.max_iters:,} iterations {in_minutes(training)}, {evaluations} evaluations {in_minutes(evaluating)}",
    ]


def budget(sweep: Sweep, cost: Mapping[str, float] | None) -> list[str]:
    """What the sweep comes to: trials, iterations at most, and with ASHA where a rung keeps 1 / reduction_factor."""
    from popgpt.sweep.search import rests_on_others
    from popgpt.sweep.space import rungs, sample

    drawn = sample(sweep)
    trials = len(drawn)
    whole = sum(min(sweep.config(parameters).max_iters, sweep.max_t) for parameters in drawn)
    by_tpe = sum(rests_on_others(sweep, number) for number in range(trials))
    how = f", the last {by_tpe} of them proposed by TPE" if by_tpe else ""
    lines = [f"sweep of {trials} trials{how}: {whole:,} iterations if none were stopped"]
    if sweep.asha:
        at = rungs(sweep.asha, sweep.max_t)[0]
        spent, left, before = 0, trials, 0
        for rung in (*at, sweep.max_t):
            spent, left, before = spent + left * (rung - before), max(1, left // sweep.asha.reduction_factor), rung
        lines.append(
            f"  about {min(whole, spent):,} with ASHA's rungs at {', '.join(map(str, at))} (the first bracket's)"
        )
        whole = min(whole, spent)
    if sweep.finalists:
        count = min(sweep.finalists, trials)
        more = count * (1 + sweep.finalist_seeds) * sweep.max_t
        seeds = f"{sweep.finalist_seeds} more seed{'s' if sweep.finalist_seeds > 1 else ''}"
        how = f"trained to the end and with {seeds}" if sweep.finalist_seeds else "trained to the end"
        lines.append(f"  at most {more:,} more for {count} finalists, {how}")
        whole += more
    if cost:
        seconds = whole * (cost["iteration"] + cost["evaluation"] / sweep.config().eval_interval)
        lines.append(f"  {in_minutes(seconds)} of one process at the base config's cost; trials share the machine")
    return lines


def in_minutes(seconds: float) -> str:
    """A duration for people."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    cli.run(main)
