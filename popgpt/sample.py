"""Ask a run: `python -m popgpt.sample RUN_DIR "12.5+7.3="`; without a prompt, lines of standard input are asked."""

from __future__ import annotations

import argparse
import io
import math
import sys
from collections.abc import Callable, Sequence

from popgpt import cli
from popgpt.config import UserError, shortened

COLDEST = 1e-6  # below it the likeliest character is certain, and logits / temperature would overflow


def main(argv: Sequence[str] | None = None) -> int:
    """Complete prompts as the command line says. Returns the exit code."""
    args = _parser().parse_args(argv)
    _check(args)

    import torch

    from popgpt.data.vocabulary import Vocabulary
    from popgpt.model.generation import complete
    from popgpt.training.checkpoint import open_model
    from popgpt.training.world import pick_device

    device = pick_device(args.device)
    model, state = open_model(args.run, device)
    vocabulary, separator = Vocabulary(state["vocabulary"]), state["separator"]
    generator = torch.Generator(device).manual_seed(args.seed)
    longest = args.max_new_tokens or state["longest_answer"] + 1
    temperature = args.temperature if args.temperature >= COLDEST else 0.0

    def answer(prompts: Sequence[str]) -> list[str]:
        asked = [prompt if separator in prompt else prompt + separator for prompt in prompts]
        done = complete(model, vocabulary, asked, longest, temperature=temperature, generator=generator)
        return [prompt + text for prompt, text in zip(asked, done, strict=True)]

    if args.prompts:
        print("\n".join(answer(args.prompts)))
    elif sys.stdin and sys.stdin.isatty():
        _talk(answer, separator)
    else:
        return _answer_lines(answer)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raises UserError for an argument that cannot be."""
    if not 0 <= args.temperature < math.inf:
        raise UserError(f"--temperature={args.temperature} should be a finite number, at least 0")
    if not 0 <= args.seed < 2**63:
        raise UserError(f"--seed={args.seed} should be at least 0 and less than {2**63}")
    if args.max_new_tokens is not None and args.max_new_tokens < 1:
        raise UserError(f"--max-new-tokens={args.max_new_tokens} should be at least 1")
    for prompt in args.prompts:
        if "\n" in prompt or "\r" in prompt:
            raise UserError(f"prompt {shortened(prompt)} should be one line")


def _answer_lines(answer: Callable[[Sequence[str]], list[str]]) -> int:
    """Answer each line of standard input; a bad one is told and the others are answered. Returns the exit code."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")
    code = 0
    for number, line in enumerate(sys.stdin or (), 1):
        prompt = (line.removeprefix("\ufeff") if number == 1 else line).strip("\r\n")
        try:
            if prompt:
                print(answer([prompt])[0], flush=True)
        except UserError as error:
            cli.say(f"error: line {number}: {error}")
            code = 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m popgpt.sample", description="Complete prompts with a trained run.")
    parser.add_argument("run", metavar="RUN_DIR", help="folder of a run, or a checkpoint file, by path or URI")
    parser.add_argument(
        "prompts", nargs="*", metavar="PROMPT", help="such as 12.5+7.3= (the separator may be left out)"
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest character (default)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling, where the temperature is above 0")
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="default: the longest answer of the dataset")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    return parser


def _talk(answer: Callable[[Sequence[str]], list[str]], separator: str) -> None:
    """Ask and answer on a terminal, until an empty line or the end of input."""
    print(f"a prompt a line (such as 12.5+7.3{separator}); an empty line ends")
    while True:
        try:
            prompt = input("> ")
        except EOFError:
            return
        if not prompt:
            return
        try:
            print(answer([prompt])[0])
        except UserError as error:
            print(error)


if __name__ == "__main__":
    cli.run(main)
