"""A run in words before it is run: the rows that it sees, its model, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from rich.text import Text

from popgpt.config import Config
from popgpt.data.batches import IGNORE_INDEX, Batch, Rows, describe_too_long, mask_token, open_view
from popgpt.data.dataset import Dataset
from popgpt.lines.text import decode, join_lines, kind_of, split_line
from popgpt.lines.vocabulary import Vocabulary
from popgpt.model.gpt import GPT, parameter_count
from popgpt.tasks.views import View
from popgpt.text.printable import printable

SHOWN_ROWS = 3
COUNTED_ROWS = 4096


def describe_rows(config: Config, dataset: Dataset, rows: Rows) -> list[str | Text]:
    """What training sees: a few rows, what is learned of them, and how full they are."""
    view, mask = open_view(config, dataset.meta), mask_token(config, dataset.meta)
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
        *(mark_learned(batch, row, view) for row in range(min(SHOWN_ROWS, counted))),
        *describe_view(config, dataset),
        f"  {masked}",
        f"  {lines * each:,.0f} lines, {tokens * each:,.0f} tokens, {learned * each:,.0f} learned, per iteration of "
        f"{each} rows",
        f"  {1 - tokens / config.block_size:.1%} of positions are padding; an epoch is {rows.rows_per_epoch:,} rows, "
        f"{config.max_iters:,} iterations are {epochs:.1f} epochs",
        *([f"  {too_long}"] if too_long else []),
    ]


def describe_view(config: Config, dataset: Dataset) -> list[str]:
    """Both forms of a line of each kind, where a model reads another than people do."""
    if config.view == "plain":
        return []
    view, split = open_view(config, dataset.meta), dataset.split("train")
    of_kind: dict[str, str] = {}
    for line in split.lines(0, COUNTED_ROWS):
        of_kind.setdefault(kind_of(split_line(line, dataset.meta.separator)[0], dataset.meta.symbols), line)
    text = join_lines([*of_kind.values()])
    read = decode(view.read(text, np.arange(len(of_kind)), config.seed, 0).text.codes).split("\n")[:-1]
    width = max(map(len, of_kind.values()))
    pairs = zip(of_kind.values(), read, strict=True)
    return [
        f"  view={config.view}: a line as people read it, and as the model does",
        *(f"    {printable(line):<{width}}  {printable(view.legible(seen))}" for line, seen in pairs),
    ]


def mark_learned(batch: Batch, row: int, view: View) -> Text:
    """A row as text; learned characters are green on a terminal and in [brackets] everywhere."""
    marked = Text("  ")
    for character, learned in characters(batch, row, view):
        before = marked.plain[-1:] == "]"
        if learned and before:
            marked.right_crop(1)
        marked.append(("" if before or not learned else "[") + character, "bold green" if learned else "dim")
        if learned:
            marked.append("]", "dim")
    return marked


def characters(batch: Batch, row: int, view: View) -> list[tuple[str, bool]]:
    """The characters of a row in reading order, and whether training learns to write each."""
    vocabulary = Vocabulary.of(view.alphabet)
    tokens, targets, segments, _ = (array[row] for array in batch)
    read = []
    for place in range(int((segments >= 0).sum())):
        follows = place > 0 and segments[place] == segments[place - 1]
        read.append((vocabulary.characters[tokens[place]], bool(follows and targets[place - 1] != IGNORE_INDEX)))
        last = place + 1 == len(segments) or segments[place + 1] != segments[place]
        if last and targets[place] != IGNORE_INDEX:
            read.append((vocabulary.characters[targets[place]], True))
    return [("⏎" if character == "\n" else printable(view.legible(character)), learned) for character, learned in read]


def describe_model(config: Config, dataset: Dataset) -> list[str]:
    """Parameters, and what the state of training takes."""
    vocabulary = Vocabulary.of(open_view(config, dataset.meta).alphabet)
    count = parameter_count(GPT(config, len(vocabulary)))
    return [
        f"model of {count:,} parameters: {config.n_layer} layers, d_model {config.d_model}, "
        f"{config.n_head} heads of {config.d_head}, {len(vocabulary)} characters"
    ]


def describe_cost(config: Config, cost: Mapping[str, float]) -> list[str]:
    """What a run costs on this machine, in words."""
    evaluations = -(-config.max_iters // config.eval_interval)
    training, evaluating = config.max_iters * cost["iteration"], evaluations * cost["evaluation"]
    return [
        f"cost here, one process, from a probe: {cost['iteration'] * 1000:.0f} ms an iteration, "
        f"{cost['evaluation']:.2f} s an evaluation, {cost['memory'] / 2**20:,.0f} MiB at peak",
        f"  {config.max_iters:,} iterations {in_minutes(training)}, {evaluations} evaluations {in_minutes(evaluating)}",
    ]


def in_minutes(seconds: float) -> str:
    """A duration for people."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
