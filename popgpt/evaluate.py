"""Score a run: `python -m popgpt.evaluate RUN_DIR [--split val|test | --file LINES.txt] [--json]`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from popgpt.terminal import cli
from popgpt.text.errors import UserError

if TYPE_CHECKING:
    from popgpt.data.dataset import Dataset
    from popgpt.lines.vocabulary import Vocabulary
    from popgpt.model.gpt import GPT

Scores = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate as the command line says. Returns the exit code."""
    parser = cli.Parser(
        prog="python -m popgpt.evaluate", description="Generated exact match of a run, in total and by operation."
    )
    parser.add_argument(
        "run", metavar="RUN_DIR", help="folder of a run or a sweep, or a checkpoint file, by path or URI"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--split", choices=["val", "test"], default="val", help="part of the run's dataset (val)")
    source.add_argument("--file", metavar="LINES.txt", help="a text file of lines: prompt, separator, answer")
    parser.add_argument("--data-dir", help="folder of the datasets, where it has moved")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)

    from popgpt.data.batches import line_room
    from popgpt.terminal.progress import waiting
    from popgpt.training.checkpoint import open_model
    from popgpt.training.evaluation import evaluate_split
    from popgpt.training.world import pick_device

    model, state = open_model(args.run, pick_device(args.device))
    with waiting("evaluating"):
        if args.file:
            scores = score_file(model, state, Path(args.file), args.data_dir)
        else:
            dataset = open_its_dataset(state, args.data_dir)
            too_long = dataset.meta.count_longer(args.split, line_room(model.config))
            scores = {"split": args.split, **evaluate_split(model, dataset, args.split), "lines_too_long": too_long}
    if args.json:
        print(json.dumps(scores, indent=2))
    else:
        print_scores(scores)
    return 0


def open_its_dataset(state: dict[str, Any], data_dir: str | None) -> Dataset:
    """The dataset that a checkpoint was trained on. Raises UserError where it is gone or another."""
    from popgpt.data.dataset import dataset_path, open_dataset
    from popgpt.training.checkpoint import config_of

    path = dataset_path(config_of(state).model_copy(update={"data_dir": data_dir} if data_dir else {}))
    dataset = open_dataset(path)
    if dataset.meta.fingerprint != state["fingerprint"]:
        raise UserError(
            f"the dataset in {path} is not the one this run was trained on "
            f"(fingerprint {dataset.meta.fingerprint[:12]}, should be {state['fingerprint'][:12]})"
        )
    return dataset


def score_file(model: GPT, state: dict[str, Any], path: Path, data_dir: str | None) -> Scores:
    """Exact match on the lines of a file: on all, and on those whose prompt the training split does not hold.

    A prompt is held where one of the same canonical form is: who has learned 1+2=3 has seen 2+1.
    """
    import numpy as np

    from popgpt.data.batches import line_room
    from popgpt.lines.text import split_line
    from popgpt.training.evaluation import answer_lines, count_exact, exact_match_metrics

    separator, symbols = state["separator"], state["symbols"]
    known, lines = read_known_lines(path, state)
    train = open_its_dataset(state, data_dir).split("train")
    _, right = answer_lines(model, known, separator, lines)
    seen = train.contains([split_line(line, separator)[0] for line in lines], model.config.task)
    unseen = np.flatnonzero(~seen)
    unseen_counts = count_exact([lines[i] for i in unseen], [right[i] for i in unseen], separator, symbols)
    return {
        "file": str(path),
        **exact_match_metrics(count_exact(lines, right, separator, symbols), symbols),
        "lines_too_long": sum(len(line) > line_room(model.config) for line in lines),
        "seen_in_training": int(np.count_nonzero(seen)),
        "unseen": exact_match_metrics(unseen_counts, symbols),
    }


def read_known_lines(path: Path, state: dict[str, Any]) -> tuple[Vocabulary, list[str]]:
    """A model's vocabulary, and the lines of a file. Raises UserError where they hold a character it does not know."""
    from popgpt.lines.vocabulary import Vocabulary

    known = Vocabulary(state["vocabulary"])
    lines = read_lines(path, state["separator"])
    for number, line in lines.items():
        strange = set(line) - set(known.characters)
        if strange:
            raise UserError(f"{path}: line {number}: the model does not know {min(strange)!r}")
    return known, list(lines.values())


def read_lines(path: Path, separator: str) -> dict[int, str]:
    """The lines of a text file that are not empty, by their numbers in it; they end as they do for prepare.

    Raises UserError where one has no separator or no answer.
    """
    from popgpt.data.own_lines import ended, read_bytes
    from popgpt.lines.text import split_line

    try:
        text = ended(read_bytes(str(path))).decode()
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {number}: not UTF-8: convert the file to UTF-8") from None
    lines = {number: line for number, line in enumerate(text.split("\n"), 1) if line}
    if not lines:
        raise UserError(f"{path}: holds no lines")
    for number, line in lines.items():
        if separator not in line or not split_line(line, separator)[1]:
            raise UserError(f"{path}: line {number}: {line[:40]!r} should be prompt{separator}answer")
    return lines


def print_scores(scores: Scores) -> None:
    """A few lines for people."""
    from popgpt.terminal.progress import describe_exact_match

    cli.tell(f"{scores.get('split') or scores.get('file')}: {describe_exact_match(scores)}")
    for symbol, part in scores["by_operation"].items():
        print(f"  {symbol}  {part['exact_match']:.2%} [{part['low']:.2%}, {part['high']:.2%}] of {part['n']:,}")
    if too_long := scores["lines_too_long"]:
        print(f"{too_long:,} of these lines are too long for the model's block_size, and count as wrong")
    if "unseen" in scores:
        asked = f"{scores['seen_in_training']:,} of these prompts are in the training split"
        print(f"{asked}, themselves or in an equal form, as 2+1 is of 1+2; on the others:")
        print(f"  {describe_exact_match(scores['unseen'])}")
    else:
        print(f"val loss {scores['val_loss']:.4f}, token accuracy {scores['token_accuracy']:.2%} (teacher-forced)")


if __name__ == "__main__":
    cli.run(main)
