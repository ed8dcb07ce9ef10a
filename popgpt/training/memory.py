"""How much memory a run takes and what to lower where it does not suffice; nothing here loads torch."""

from __future__ import annotations

import ctypes
import sys

from popgpt.config import Config

# malloc.h. The second alone would make it worse: setting either ends glibc's own adjusting of the first.
M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
LARGE_BYTES = 2**30


def memory_advice(config: Config) -> str:
    """Return what a message says that memory did not suffice for, and what to lower."""
    return (
        f"out of memory with batch_size={config.batch_size}, block_size={config.block_size}, "
        f"d_model={config.d_model}, n_layer={config.n_layer}: lower batch_size, and raise gradient_accumulation_steps "
        f"by the same factor to train on as many rows an iteration"
    )


def largest(configs: list[Config]) -> Config:
    """Return the config that takes the most memory, by the size of its activations."""
    return max(configs, key=lambda c: (c.batch_size * c.block_size * c.d_model * c.n_layer, c.block_size))


def keep_freed_memory() -> bool:
    """Have malloc keep what tensors free for the next ones: given back, it is paged in again at every iteration.

    Returns True if the C library can be told so (glibc).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all(mallopt(option, LARGE_BYTES) for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD))
