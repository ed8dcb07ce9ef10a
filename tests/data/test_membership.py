"""Which split asks a prompt: as the files of the dataset say, in any of its canonical forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from popgpt.config import Config
from popgpt.data.dataset import ensure_dataset
from popgpt.data.membership import Membership
from popgpt.data.meta import SPLITS
from popgpt.text.errors import UserError

Make = Callable[..., Config]


@pytest.mark.parametrize(
    "over",
    [
        {"task": {"integer_digits": 1, "decimals": 0, "operations": "+-*"}, "train_lines": 150, "dataset": "few"},
        {"task": {"name": "reverse", "length": 3, "alphabet": "aé😀b"}, "train_lines": 40, "dataset": "strings"},
    ],
    ids=["calculator", "reverse"],
)
def test_a_prompt_is_in_the_split_that_holds_its_canonical_form(tiny: Make, over: dict[str, Any]) -> None:
    config = tiny(**over, val_lines=20, test_lines=20)
    dataset = ensure_dataset(config)
    source = config.task.source(config.task.count_prompts(), 0)
    numbers = np.arange(len(source))
    prompts = [line.split("=")[0] for line in source.text(numbers).codes.tobytes().decode().splitlines()]
    found = Membership(config, dataset).splits(source.keys(numbers))
    assert {*found.tolist()} == {-1, 0, 1, 2}
    for label, name in enumerate(SPLITS):
        assert (found == label).tolist() == dataset.split(name).contains(prompts, config.task).tolist()


def test_lines_that_are_drawn_in_another_way_are_refused(tiny: Make) -> None:
    config = tiny()
    dataset = ensure_dataset(config)
    for other in ({"data_seed": 99}, {"train_lines": 399}):
        with pytest.raises(UserError, match=r"train\.arrow: not the lines that this popgpt draws"):
            Membership(config.model_copy(update=other), dataset)
