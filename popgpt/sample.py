"""Ask a run: `python -m popgpt.sample RUN_DIR "12.5+7.3="`; without a prompt, lines of standard input are asked."""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from popgpt.terminal import arguments, program
from popgpt.text.errors import UserError, shortened
from popgpt.text.printable import printable

BATCH = 1024  # lines that are answered at once, at most
CHUNK = 2**16

Complete = Callable[[Sequence[str]], list[str | UserError]]


def main(argv: Sequence[str] | None = None) -> int:
    """Complete prompts as the command line says. Returns the exit code."""
    args = _parse(sys.argv[1:] if argv is None else argv)
    _check(args)
    if argv is None:  # a prompt is UTF-8, whatever the locale
        args.prompts = [os.fsencode(prompt).decode("utf-8", "surrogateescape") for prompt in args.prompts]
    complete = _open(args)
    if args.prompts:
        return _show_given(args.prompts, complete)
    if sys.stdin and sys.stdin.isatty():
        return _talk(complete)
    return _answer_lines(complete)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments. Whatever is none of the options is a prompt, so `-5+3=` is one."""
    parser = arguments.Parser(prog="python -m popgpt.sample", description="Complete prompts with a trained run.")
    parser.add_argument(
        "run", metavar="RUN_DIR", help="folder of a run or a sweep, or a checkpoint file, by path or URI"
    )
    parser.add_argument(
        "prompts", nargs="*", metavar="PROMPT", help="such as 12.5+7.3= (the separator may be left out)"
    )
    options = [
        parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest character (default)"),
        parser.add_argument("--seed", type=int, default=0, help="of the sampling, where the temperature is above 0"),
        parser.add_argument(
            "--max-new-tokens", type=int, metavar="N", help="default: the longest answer of the dataset"
        ),
        parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"]),
    ]
    parser.add_argument("--work", action="store_true", help="also show, after a tab, what the model read and wrote")
    given, others = _part(words, [name for option in options for name in option.option_strings], ["--help", "--work"])
    return parser.parse_args([*given, "--", *others])


def _part(words: Sequence[str], options: Sequence[str], flags: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the options with their values, and the other words. An option may be abbreviated, as argparse has it.

    flags: the options that take no value.
    """
    given: list[str] = []
    others: list[str] = []
    left = iter(words)
    for word in left:
        name, equals, _ = word.partition("=")
        if word == "--":
            others += left
        elif word == "-h" or (len(word) > 2 and any(flag.startswith(word) for flag in flags)):
            given.append(word)
        elif len(name) > 2 and any(option.startswith(name) for option in options):
            value = None if equals else next(left, None)
            given.append(word if value is None else f"{word}={value}")
        else:
            others.append(word)
    return given, others


def _check(args: argparse.Namespace) -> None:
    """Raise UserError for an argument that is out of bounds."""
    if not 0 <= args.temperature < math.inf:
        raise UserError(f"--temperature={args.temperature} should be a finite number, at least 0")
    if not 0 <= args.seed < 2**63:
        raise UserError(f"--seed={args.seed} should be at least 0 and less than {2**63}")
    if args.max_new_tokens is not None and args.max_new_tokens < 1:
        raise UserError(f"--max-new-tokens={args.max_new_tokens} should be at least 1")


def _open(args: argparse.Namespace) -> Complete:
    """Open the run. Returns what completes prompts with it: each prompt with its completion, or why it has none."""
    import numpy as np

    from popgpt.model.generation import complete_given
    from popgpt.training.checkpoint import open_model, open_view_of
    from popgpt.training.world import pick_device

    model, state = open_model(args.run, pick_device(args.device))
    view, separator = open_view_of(state), state["separator"]
    longest = args.max_new_tokens or view.longest_answer + 1
    random = np.random.default_rng(args.seed)
    return lambda prompts: complete_given(model, view, separator, prompts, longest, args.temperature, random, args.work)


def _show(prompts: Sequence[str], called: Sequence[str], complete: Complete) -> int:
    """Print the answers; of a prompt that has none, print what it is called and why. Returns the exit code."""
    code = 0
    for name, found in zip(called, complete(prompts), strict=True):
        if isinstance(found, str):
            print(printable(found, keep="\t") if sys.stdout.isatty() else found)
        else:
            sys.stdout.flush()
            told = str(found)  # of a view it names the prompt itself
            program.say(f"error: {told if told.startswith(name) else f'{name}: {told}'}")
            code = 2
    sys.stdout.flush()
    return code


def _show_given(prompts: Sequence[str], complete: Complete) -> int:
    return _show(prompts, [f"prompt {shortened(prompt)}" for prompt in prompts], complete)


def _answer_lines(complete: Complete) -> int:
    """Answer the lines of standard input, as many at once as have come. Returns the exit code."""
    code, before = 0, 0
    for lines in _arriving(sys.stdin):
        asked = {number: line for number, line in enumerate(lines, before + 1) if line}
        code = max(code, _show([*asked.values()], [f"line {number}" for number in asked], complete))
        before += len(lines)
    return code


def _arriving(stream: TextIO | None) -> Iterator[list[str]]:
    """Yield the lines of a stream as they come, up to BATCH at a time; no line waits for one that has yet to come.

    They are read as UTF-8, whatever the stream's encoding.
    """
    lines: list[str] = []
    begun = bytearray()  # a line whose end has yet to come
    first = True
    for chunk, more in _chunks(stream):
        whole, newline, rest = chunk.rpartition(b"\n")
        if newline:
            lines += _decoded(bytes(begun + whole + newline), first)
            begun, first = bytearray(), False
        begun += rest
        while len(lines) >= BATCH or (lines and not more):
            yield lines[:BATCH]
            del lines[:BATCH]
    lines += _decoded(bytes(begun), first) if begun else []
    for start in range(0, len(lines), BATCH):
        yield lines[start : start + BATCH]


def _chunks(stream: TextIO | None) -> Iterator[tuple[bytes, bool]]:
    """Yield what can be read of a stream, as it comes, and each time whether more is there already."""
    if stream is None:
        return
    try:
        descriptor = stream.fileno()
    except OSError:  # it is no file's
        yield stream.buffer.read(), False
        return
    while chunk := os.read(descriptor, CHUNK):
        yield chunk, bool(select.select([descriptor], [], [], 0)[0])


def _decoded(data: bytes, first: bool) -> list[str]:
    """Return lines; bytes that are not UTF-8 become half characters, which no prompt may have."""
    from popgpt.data.own_lines import ended

    decoded = ended(data).decode("utf-8", "surrogateescape")[:-1]  # less the end of the last line
    return (decoded.removeprefix("\ufeff") if first else decoded).split("\n")


def _talk(complete: Complete) -> int:
    """Ask and answer on a terminal, until an empty line or the end of input."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    print("a prompt a line; an empty line ends")
    with contextlib.suppress(EOFError):
        while prompt := input("> "):
            _show_given([prompt], complete)
    return 0


if __name__ == "__main__":
    program.run(main)
