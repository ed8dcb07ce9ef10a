"""What attention over the lines of a row takes: `python -m benchmarks.attention [--device cuda] [--dtypes ...]`.

Forward and backward of one block's attention, at the shapes of the sizes that benchmarks.train_speed trains, by turns:
PyTorch's attention under a mask of booleans and of numbers, without a mask but causal, written out as two products and
a softmax, and, where PyTorch has it, over lines of unlike lengths. Prints milliseconds. Nothing is asserted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.train_speed import DTYPES, STEPS, Clock
from popgpt.model.gpt import line_mask
from popgpt.terminal.program import run, tell
from popgpt.training.world import pick_device

SHAPES = {"2x128": (48, 64, 4), "6x384": (48, 64, 12), "12x768, long rows": (64, 256, 12)}  # B, T, H
HEAD = {"2x128": 32, "6x384": 32, "12x768, long rows": 64}
LINE = 13
ROUNDS = 5


def written_out(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.mT) + mask
    return torch.matmul(scores.softmax(-1), v)


def by_lines(q: Tensor, k: Tensor, v: Tensor, starts: Tensor) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (heads.transpose(1, 2).reshape(-1, heads.shape[1], heads.shape[3]) for heads in (q, k, v))
    return varlen_attn(q, k, v, starts, starts, LINE, LINE, window_size=(-1, 0))


def ways(size: str, dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[], object]]:
    """Return each way to compute attention, forward and backward."""
    (B, T, H), D = SHAPES[size], HEAD[size]
    joined = torch.randn(B, T, 3, H, D, device=device).to(dtype).requires_grad_()
    visible = line_mask((torch.arange(T, device=device) // LINE).expand(B, T))
    numbers = torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, float("-inf"))
    starts = torch.arange(0, B * T, LINE, dtype=torch.int32, device=device)
    starts = torch.cat([starts, starts.new_tensor([B * T])])

    def both_ways(attend: Callable[..., Tensor]) -> Callable[[], object]:
        def work() -> None:
            joined.grad = None
            attend(*(heads.transpose(1, 2) for heads in joined.unbind(2))).sum().backward()

        return work

    found: dict[str, Callable[..., Tensor]] = {
        "booleans": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=visible),
        "numbers": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=numbers),
        "causal, no mask": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "written out": lambda q, k, v: written_out(q, k, v, numbers),
    }
    if device.type == "cuda" and dtype == torch.bfloat16:
        found["lines of unlike lengths"] = lambda q, k, v: by_lines(q, k, v, starts)
    return {name: both_ways(attend) for name, attend in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtypes", nargs="+", default=["float32"], choices=[*DTYPES])
    args = parser.parse_args()
    torch.set_num_threads(1)
    clock, times = Clock(pick_device(args.device)), STEPS[args.device]
    for size in SHAPES:
        for dtype in args.dtypes:
            compared = ways(size, DTYPES[dtype], clock.device)
            found: dict[str, list[float]] = {name: [] for name in compared}
            for _ in range(1 + ROUNDS):
                for name, work in list(compared.items()):
                    try:
                        found[name].append(clock.seconds(lambda work=work: [work() for _ in range(times)]) / times)
                    except (RuntimeError, ImportError, TypeError) as error:  # not in this version, or not on this GPU
                        tell(f"{name}: {str(error).splitlines()[0]}")
                        del compared[name]
            told = (f"{name} {1000 * median(found[name][1:]):.2f}" for name in compared)
            tell(f"{size}, {dtype}, ms: {', '.join(told)}")


if __name__ == "__main__":
    run(lambda _: main())
