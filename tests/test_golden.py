"""Training comes to the losses that it came to when tests/golden/losses.json was made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import golden

TOLERANCE = 1e-4


@pytest.mark.parametrize("case", golden.CASES)
def test_the_losses_of_a_fixed_seed(case: str, tmp_path: Path) -> None:
    assert golden.deviation(case, tmp_path) < TOLERANCE
