"""Prompts of the calculator as text in canonical form: alike for a+b and b+a, exactly where `Calculator.keys` are."""

from __future__ import annotations

import re

import numpy as np

from popgpt.lines.shuffle import U64, mix
from popgpt.lines.text import I64, Text, hash_spans
from popgpt.tasks.calculator.grammar import Tree, parse

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_OPERAND = rf"(\(?)(-?{_NUMBER})(\)?)"
_PROMPT = re.compile(rf"{_OPERAND}(?:[-+*/]{_OPERAND})*")
_TOKEN = re.compile(rf"{_OPERAND}([-+*/]?)")
_MOST_OPERANDS = 32


def canonical(prompt: str) -> str:
    """The form that a prompt's twins share; the prompt itself where it is none that the grammar could make."""
    if not _PROMPT.fullmatch(prompt):
        return prompt
    tokens = _TOKEN.findall(prompt)
    opened, closed = ([i for i, token in enumerate(tokens) if token[side]] for side in (0, 2))
    if len(tokens) > _MOST_OPERANDS or len(opened) != len(closed) or len(opened) > 1 or opened > closed:
        return prompt
    group = (opened[0], closed[0]) if opened else None
    return _key(parse([token[3] for token in tokens[:-1]], group), [_number(token[1]) for token in tokens])


def _number(text: str) -> str:
    """A number without needless zeros or sign."""
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    whole, _, decimals = digits.partition(".")
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    if not decimals:
        return whole if whole == "0" else sign + whole
    return f"{sign}{whole}.{decimals}"


def _key(tree: Tree, operands: list[str]) -> str:
    """A tree with the parts of each sum and product in one order."""
    if isinstance(tree, int):
        return operands[tree]
    family = "+-" if tree[0] in "+-" else "*/"
    return f"{family[0]}({' '.join(sorted(_parts(tree, family, operands)))})"


def _parts(tree: Tree, family: str, operands: list[str]) -> list[str]:
    """A sum's terms or a product's factors; those taken away are marked."""
    if isinstance(tree, int) or tree[0] not in family:
        return [_key(tree, operands)]
    sign, left, right = tree
    if sign in "+*":
        return _parts(left, family, operands) + _parts(right, family, operands)
    return [*_parts(left, family, operands), "~" + _key(right, operands)]


def plain_numbers(prompt: str) -> str:
    """A prompt with its numbers as the calculator writes them."""
    return re.sub(_NUMBER, lambda number: _number(number[0]), prompt)


def hash_operands(text: Text, ends: I64) -> U64:
    """[n] a hash of the numbers in each prompt, in any order: twins' are alike where numbers are written plainly."""
    digit = (text.codes >= ord("0")) & (text.codes <= ord("9")) | (text.codes == ord("."))
    edges = np.diff(digit, prepend=False, append=False)
    starts, stops = np.flatnonzero(edges)[::2], np.flatnonzero(edges)[1::2]
    asked = starts < ends[np.searchsorted(text.offsets, starts, side="right") - 1]
    starts, stops = starts[asked], stops[asked]
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(mix(hash_spans(text.codes, starts, stops)))))
    before = np.searchsorted(starts, text.offsets)
    hashes: U64 = sums[before[1:]] - sums[before[:-1]]
    return hashes
