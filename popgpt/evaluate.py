"""Score a run: `python -m popgpt.evaluate RUN_DIR [--split val|test | --file LINES.txt] [--json]`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from popgpt.terminal import arguments, program
from popgpt.text.errors import UserError

if TYPE_CHECKING:
    from popgpt.tasks.views import View


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate as the command line says. Returns the exit code."""
    parser = arguments.Parser(
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
    from popgpt.training.checkpoint import open_dataset_of, open_model, open_view_of
    from popgpt.training.evaluation import evaluate_lines, evaluate_split
    from popgpt.training.world import pick_device

    model, state = open_model(args.run, pick_device(args.device))
    with waiting("evaluating"):
        if args.file:
            lines = read_known_lines(Path(args.file), open_view_of(state), state["separator"])
            train = open_dataset_of(state, args.data_dir).split("train")
            scores = {"file": args.file, **evaluate_lines(model, state, lines, train)}
        else:
            dataset = open_dataset_of(state, args.data_dir)
            too_long = dataset.meta.count_longer(args.split, line_room(model.config))
            scores = {"split": args.split, **evaluate_split(model, dataset, args.split), "lines_too_long": too_long}
    if args.json:
        print(json.dumps(scores, indent=2))
    else:
        print_scores(scores)
    return 0


def read_known_lines(path: Path, view: View, separator: str) -> list[str]:
    """Return the lines of a file. Raises UserError if one holds a character that no line of the dataset does."""
    from popgpt.tasks.views import Plain

    lines = read_lines(path, separator)
    for number, line in lines.items():
        if isinstance(view, Plain) and (strange := set(line) - set(view.alphabet)):
            raise UserError(f"{path}: line {number}: the model does not know {min(strange)!r}")
    return list(lines.values())


def read_lines(path: Path, separator: str) -> dict[int, str]:
    """Return the lines of a text file that are not empty, by their numbers; they end as they do for `prepare`.

    Raises UserError if one has no separator or no answer.
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


def print_scores(scores: dict[str, Any]) -> None:
    """Print scores for a person, in a few lines."""
    from popgpt.terminal.progress import describe_exact_match

    program.tell(f"{scores.get('split') or scores.get('file')}: {describe_exact_match(scores)}")
    for symbol, part in scores["by_operation"].items():
        print(f"  {symbol}  {part['exact_match']:.2%} [{part['low']:.2%}, {part['high']:.2%}] of {part['n']:,}")
    if too_long := scores["lines_too_long"]:
        print(f"{too_long:,} of these lines are too long for the model's block_size, and count as wrong")
    elif not_held := scores.get("prompts_not_held"):
        print(f"{not_held:,} of these prompts cannot be asked in the model's view, and count as wrong")
    if "unseen" in scores:
        asked = f"{scores['seen_in_training']:,} of these prompts are in the training split"
        print(f"{asked}, themselves or in the same canonical form; on the others:")
        print(f"  {describe_exact_match(scores['unseen'])}")
    else:
        print(f"val loss {scores['val_loss']:.4f}, token accuracy {scores['token_accuracy']:.2%} (teacher-forced)")


if __name__ == "__main__":
    program.run(main)
