"""Canonical prompts as text are those the calculator splits by; and answers to prompts that no line holds."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from popgpt.config import make_config
from popgpt.data.dataset import ensure_dataset
from popgpt.tasks.calculator import Calculator
from popgpt.tasks.calculator.prompts import canonical


@pytest.mark.parametrize(
    "options",
    [
        {"integer_digits": 1, "decimals": 0, "count": 390},
        {"integer_digits": 1, "decimals": 1, "signed": True, "count": 20_000},
        {"integer_digits": 1, "decimals": 0, "terms": 3, "parentheses": True, "count": 28_530},
        {"integer_digits": 1, "decimals": 0, "terms": 4, "parentheses": True, "signed": True, "count": 20_000},
    ],
)
def test_prompts_have_one_form_exactly_where_their_keys_are_alike(options: dict[str, Any]) -> None:
    count = options.pop("count")
    source = Calculator(**options).source(count, 1)
    lines = bytes(source.text(np.arange(count)).codes).decode().splitlines()
    forms_of, keys_of = defaultdict(set), defaultdict(set)
    for line, key in zip(lines, source.keys(np.arange(count)).tolist(), strict=True):
        form = canonical(line.split("=")[0])
        forms_of[key].add(form)
        keys_of[form].add(key)
    assert {len(forms) for forms in forms_of.values()} == {len(keys) for keys in keys_of.values()} == {1}
    assert len(forms_of) < count


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1+2", "2+1"),
        ("01.50*2", "2*1.5"),
        ("1+2*3", "3*2+1"),
        ("-1+2", "2+-1"),
        ("1-2-3", "1-3-2"),
        ("-0+1", "1+0"),
        ("(1+2)*3", "3*(2+1)"),
    ],
)
def test_prompts_of_one_form(one: str, other: str) -> None:
    assert canonical(one) == canonical(other)


@pytest.mark.parametrize(
    "prompt", ["", "+", "1+", "(1+2", "1+2)", ")1+2(", "((1+2))", "1++2", "a", "(" * 9999, "1+" * 99 + "1"]
)
def test_what_is_no_prompt_of_the_grammar_is_its_own_form(prompt: str) -> None:
    assert canonical(prompt) == prompt


def test_a_split_contains_what_it_holds_in_another_form(tmp_path: Path) -> None:
    config = make_config(
        {
            "data_dir": str(tmp_path),
            "task": {"name": "calculator", "terms": 3, "parentheses": True, "integer_digits": 1},
            "train_lines": 3000,
            "val_lines": 500,
            "test_lines": 500,
        }
    )
    dataset, task = ensure_dataset(config), config.task
    prompts = {
        split: [line.split("=")[0] for line in dataset.split(split).lines()] for split in ("train", "val", "test")
    }
    train = dataset.split("train")
    assert train.contains(prompts["train"], task).all()
    assert not train.contains([*prompts["val"], *prompts["test"], "nothing", ""], task).any()
    held = {canonical(prompt) for prompt in prompts["train"]}
    rng = np.random.default_rng(0)
    turned = ["+".join(rng.permutation(prompt.split("+"))) for prompt in prompts["train"] if "(" not in prompt]
    assert train.contains(turned, task).tolist() == [canonical(prompt) in held for prompt in turned]
    sums = [prompt for prompt in turned if prompt.count("+") == 2]
    assert len(sums) > 30
    assert train.contains(sums, task).all()
    assert not set(sums) <= set(prompts["train"])


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("2+1", "3"),
        ("01.50*2", "3"),
        ("1/8", "0.12"),
        ("3/8", "0.38"),
        ("0.001*0.001", "0.000001"),
        ("1-2*3", "-5"),
        ("(1-2)*3", "-3"),
        ("-0-0", "0"),
        ("1/3/3", "0.11"),
        ("123456789012345678901*10", "1234567890123456789010"),
        ("1/0", None),
        ("1/(2-2)", None),
        ("1+", None),
        ("a", None),
        ("7", "7"),
    ],
)
def test_the_answer_to_any_prompt(prompt: str, said: str | None) -> None:
    assert Calculator().answer(prompt) == said
