"""What repeats for its statistics: a sample of it is run in CI, the whole by `make soak`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def sample_and_whole(sample: Iterable[Any], whole: Iterable[Any]) -> list[Any]:
    """Parameters for a test: each of `sample` as a slow one, and each of `whole` marked `soak`. A tuple is a row."""
    return [
        *(pytest.param(*row(each), marks=pytest.mark.slow, id=name(each)) for each in sample),
        *(pytest.param(*row(each), marks=pytest.mark.soak, id=f"soak-{name(each)}") for each in whole),
    ]


def row(each: Any) -> tuple[Any, ...]:
    return each if isinstance(each, tuple) else (each,)


def name(each: Any) -> str:
    return "-".join(map(str, row(each)))
