"""Write a config and a search space for your own lines: `python -m popgpt.init LINES`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from popgpt.config import dump_yaml, make_config
from popgpt.tasks.registry import task_names
from popgpt.terminal import arguments, program
from popgpt.text.errors import UserError

TOKENS = 4096  # positions of an iteration
CANDIDATES = "=:\t|;>,?#~"
CONFIG = """\
# {lines:,} lines of {file}, the longest of {longest} characters; written by popgpt.init.
# Every parameter not named here has the default that `python -m popgpt.train --help` shows.
{names}
block_size: {block_size}
batch_size: {batch_size}

n_layer: 2
d_model: 128
d_head: 32

optimizer: muon
learning_rate: 3.0e-3
warmup_iters: 50
max_iters: 1000

eval_interval: 100
log_interval: 10
"""
SPACE = """\
# Which configuration answers the lines of {file} best; written by popgpt.init.
{names}metric: exact_match
num_samples: 16
seed: 0
space:
  learning_rate: {{loguniform: [1.0e-3, 1.0e-2]}}
  d_model: {{choice: [64, 96, 128]}}
  d_head: {{choice: [16, 32]}}
  n_layer: {{choice: [2, 3]}}
  dropout: {{choice: [0.0, 0.1]}}
asha: {{grace_period: 100, reduction_factor: 3}}   # in iterations; max_t: the config's max_iters
finalists: 2         # the best trials, trained to max_t with
finalist_seeds: 1    # so many more seeds; the best mean wins
"""


class Sizes(NamedTuple):
    """What a config is chosen from: how many lines there are, and characters, and in the longest line."""

    lines: int
    characters: int
    longest: int


def main(argv: Sequence[str] | None = None) -> int:
    """Write the two files as the command line says, and print what to do with them. Returns the exit code."""
    args = _parser().parse_args(argv)
    if args.lines == "-":
        raise UserError("-: give a file, which prepare reads again")
    name = args.dataset or name_of(args.lines)
    out = Path(args.out)
    config, space = out / "configs" / f"{name}.yaml", out / "search_spaces" / f"{name}.yaml"
    make_config({"task": "text", "dataset": name, "data_dir": args.data_dir}, "arguments")
    for path in (config, space):
        if path.exists():
            raise UserError(f"{path} is there already; remove it, or give another --dataset NAME or --out DIR")
    separator = args.separator if args.separator is not None else find_separator(args.lines)
    texts = files_of(name, args.data_dir, args.lines, read_sizes(args.lines, separator, args.drop_bad))
    for path, text in zip((config, space), texts, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
        program.tell(f"wrote {path}")
    prepare = ["python", "-m", "popgpt.prepare", "--from-text", args.lines, "--dataset", name]
    prepare += ["--data-dir", args.data_dir] if args.data_dir != "data" else []
    prepare += ["--separator", separator] if separator != "=" else []
    prepare += ["--drop-bad"] if args.drop_bad else []
    program.tell(f"the separator is {separator!r}; next:")
    for words in (prepare, *(["python", "-m", f"popgpt.{on}", str(config)] for on in ("explain", "train"))):
        program.tell(f"  {shlex.join(words)}")
    program.tell(f"  {shlex.join(['python', '-m', 'popgpt.tune', str(space)])}")
    return 0


def _parser() -> arguments.Parser:
    parser = arguments.Parser(
        prog="python -m popgpt.init", description="Write a config and a search space for your own lines."
    )
    parser.add_argument("lines", metavar="LINES", help="text, .csv or .parquet (columns prompt, answer)")
    parser.add_argument("--dataset", metavar="NAME", help="name of the dataset and of the files (default: the file's)")
    parser.add_argument("--separator", help="the character after the prompt (default: =, or the one that fits)")
    parser.add_argument("--data-dir", metavar="DIR", default="data", help="folder that holds the datasets (data)")
    parser.add_argument("--drop-bad", action="store_true", help="leave unusable lines out instead of refusing the file")
    parser.add_argument("--out", metavar="DIR", default=".", help="where configs/ and search_spaces/ are (.)")
    return parser


def name_of(file: str) -> str:
    """The name of a dataset made from a file's name. One that is a task's would be that task's dataset."""
    name = re.sub(r"[^\w-]+", "-", Path(file).stem).strip("-")[:100] or "lines"
    return f"my-{name}" if name in task_names() else name


def find_separator(file: str) -> str:
    """`=` where each line has one; else the only usual separator that each line has once. Raises UserError."""
    if Path(file).suffix.lower() in (".csv", ".parquet"):
        return "="
    from popgpt.data.own_lines import ended, read_bytes

    lines = [line for line in ended(read_bytes(file)).decode(errors="replace").split("\n") if line]
    if all("=" in line for line in lines):
        return "="
    once = [candidate for candidate in CANDIDATES if all(line.count(candidate) == 1 for line in lines)]
    if len(once) == 1:
        return once[0]
    found = f"{', '.join(map(repr, once))} would do" if once else "no usual separator is once in each line"
    raise UserError(f"{file}: which character is between prompt and answer? {found}; give --separator")


def read_sizes(file: str, separator: str, drop_bad: bool) -> Sizes:
    """The sizes of a file's lines, read as prepare reads them. Raises UserError."""
    from popgpt.data.own_lines import read_file, usable_lines

    if len(separator) != 1 or separator in "\r\n":
        raise UserError(f"--separator {separator!r} should be one character, and not a newline")
    text = usable_lines(file, read_file(file, separator), drop_bad)
    return Sizes(len(text.lengths), len(text.codes), int(text.lengths.max()))


def files_of(name: str, data_dir: str, file: str, sizes: Sizes) -> tuple[str, str]:
    """The texts of a config and of a search space. A row holds the longest line, of short lines several."""
    several = 4 if sizes.longest <= 32 else 2 if sizes.longest <= 256 else 1
    block_size = max(16, -(-sizes.longest * several // 16) * 16)
    rows = max(1, sizes.characters // block_size)
    batch_size = max(1, min(TOKENS // block_size, rows // 4, 128))
    shown = ascii(Path(file).name)[1:-1]
    names = dump_yaml({"out_dir": f"out/{name}", "task": "text", "dataset": name, "data_dir": data_dir})
    of = {"file": shown, "lines": sizes.lines, "longest": sizes.longest}
    config = CONFIG.format(**of, names=names, block_size=block_size, batch_size=batch_size)
    return config, SPACE.format(
        **of, names=dump_yaml({"config": f"../configs/{name}.yaml", "out_dir": f"sweeps/{name}"})
    )


if __name__ == "__main__":
    program.run(main)
