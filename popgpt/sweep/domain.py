"""A swept parameter's domain: its kind, its values, and when it is drawn; read from a search-space file and checked."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from popgpt.config import ALIASES, MOST, Config, by_foreign_name, divisors, explain_error, nearest_name
from popgpt.text.errors import UserError, shortened

KINDS = ("choice", "uniform", "loguniform", "randint", "grid", "divisors_of")
RANGES = ("uniform", "loguniform", "randint")
OTHER_KINDS = by_foreign_name(
    {
        "choice": "values options categorical choices in list",
        "grid": "grid_search",
        "loguniform": "log_uniform log_uniform_values log reciprocal qloguniform",
        "randint": "int integers range int_uniform",
        "uniform": "float quniform",
        "give {uniform: [lowest, highest]}, or loguniform, or randint": "min max low high",
        "a fixed value stands alone, without braces": "value fixed constant",
        "the kind is the key: {uniform: [lowest, highest]}": "distribution type",
    }
)


@dataclass(frozen=True)
class Domain:
    """Where a parameter's values come from: its choices; the two ends of a range, both included; or the parameter whose
    divisors they are, and their bounds. `when`: a parameter, and the values of it for which this one is drawn at all.
    """

    kind: str
    values: tuple[Any, ...]
    when: tuple[str, tuple[Any, ...]] | None = None

    @property
    def size(self) -> float:
        """How many values there are; inf where they are not counted."""
        if self.kind in ("uniform", "loguniform", "divisors_of"):
            return math.inf
        return self.values[1] - self.values[0] + 1 if self.kind == "randint" else len(self.values)

    def draw(self, rng: random.Random) -> Any:
        """Draw one value of a choice or a range."""
        if self.kind == "choice":
            return rng.choice(self.values)
        low, high = self.values
        if self.kind == "randint":
            return rng.randint(low, high)
        if self.kind == "loguniform":
            return self.rounded(math.exp(rng.uniform(math.log(low), math.log(high))))
        return self.rounded(rng.uniform(low, high))

    def rounded(self, value: float) -> float:
        """Round to six significant digits, within the range."""
        low, high = self.values
        return min(max(float(f"{value:.6g}"), low), high)

    def choice_for(self, whole: int) -> Domain:
        """Return the choice among the divisors of `whole` within the bounds. Raises UserError where there is none."""
        of, low, high = self.values
        found = tuple(d for d in divisors(whole) if low <= d <= high) if whole > 0 else ()
        if not found:
            raise UserError(f"{of}={whole} has no divisor between {low} and {high}")
        return Domain("choice", found)


def read_domain(name: str, spec: Mapping[str, Any], source: str) -> Domain:
    """The domain that a search-space file gives a parameter. Raises UserError, beginning with `source`."""
    where = f"{source}: space.{name}"
    kinds = [key for key in spec if key not in ("when", "between")]
    if len(kinds) != 1 or kinds[0] not in KINDS:
        unknown = next((str(key) for key in kinds if key not in KINDS), "")
        hint = nearest_name(unknown, KINDS, OTHER_KINDS) if unknown else ""
        raise UserError(f"{where}={shortened(dict(spec))} should have one of the keys {', '.join(KINDS)}{hint}")
    kind, values = kinds[0], spec[kinds[0]]
    when = _read_when(spec["when"], where, source) if "when" in spec else None
    if kind == "divisors_of":
        return Domain(kind, _read_divisors(name, values, spec.get("between", [1, MOST]), where), when)
    if "between" in spec:
        raise UserError(f"{where}: between={shortened(spec['between'])} goes with divisors_of only")
    if not isinstance(values, list) or not values:
        wanted = "two bounds" if kind in RANGES else "values"
        raise UserError(f"{where}: {kind}={shortened(values)} should be a list of {wanted}")
    if kind in RANGES:
        _check_range(kind, values, where)
    for value in values:
        check_value(name, value, source)
    if kind not in RANGES and len(set(values)) < len(values):
        raise UserError(f"{where}: {kind}={shortened(values)} should name each value once")
    if kind in ("uniform", "loguniform") and Config.model_fields[name].annotation is int:
        raise UserError(f"{where}: {kind} draws fractions; a whole number takes randint: {shortened(values)} or choice")
    if kind == "randint" and Config.model_fields[name].annotation is float:
        raise UserError(f"{where}: randint draws whole numbers; give uniform: {shortened(values)}")
    return Domain(kind, tuple(values), when)


def _read_divisors(name: str, of: Any, between: Any, where: str) -> tuple[str, int, int]:
    whole = _referred(of, f"{where}: divisors_of={shortened(of)}")
    if Config.model_fields[name].annotation is not int:
        raise UserError(f"{where}: divisors_of={shortened(of)} draws whole numbers, which {name} does not take")
    if not _is_size(whole):
        raise UserError(f"{where}: divisors_of={shortened(of)} should be a whole number, as d_model is")
    if whole == name:
        raise UserError(f"{where}: divisors_of={shortened(of)} should be another parameter")
    if not isinstance(between, list):
        raise UserError(f"{where}: between={shortened(between)} should be [the lowest, the highest value]")
    _check_range("between", between, where)
    if between[0] > MOST or between[1] < 1:
        raise UserError(f"{where}: between={shortened(between)} should hold a number from 1 to {MOST}")
    return whole, max(1, between[0]), min(MOST, between[1])


def _is_size(name: str) -> bool:
    """Whether a parameter is a whole number above 0 whose divisors can be told in no time: not so a seed."""
    field = Config.model_fields[name]
    most = min((getattr(part, "le", math.inf) for part in field.metadata), default=math.inf)
    least = max((getattr(part, bound, -1) for part in field.metadata for bound in ("ge", "gt")), default=-1)
    return field.annotation is int and least >= 0 and most <= MOST


def _read_when(given: Any, where: str, source: str) -> tuple[str, tuple[Any, ...]]:
    if not isinstance(given, dict) or len(given) != 1:
        raise UserError(f"{where}: when={shortened(given)} should be {{parameter: value}} or {{parameter: [values]}}")
    ((key, value),) = given.items()
    name = _referred(key, f"{where}: when={shortened(given)}")
    values = value if isinstance(value, list) else [value]
    for each in values:
        check_value(name, each, source)
    if not values:
        raise UserError(f"{where}: when={shortened(given)} should name a value")
    return name, tuple(values)


def _referred(name: Any, where: str) -> str:
    known = ALIASES.get(str(name), str(name))
    if known not in Config.model_fields:
        raise UserError(f"{where} should name a parameter{nearest_name(known, Config.model_fields)}")
    return known


def _check_range(kind: str, values: list[Any], where: str) -> None:
    whole = kind in ("randint", "between")
    number = int if whole else (int, float)
    told = f"{where}: {kind}={shortened(values)}"
    if len(values) != 2 or not all(isinstance(v, number) and not isinstance(v, bool) for v in values):
        wanted = "two whole numbers" if whole else "two numbers"
        raise UserError(f"{told} should be {wanted}, the lowest and the highest value")
    if not all(-math.inf < v < math.inf for v in values):
        raise UserError(f"{told} should be finite")
    if not values[0] < values[1]:
        raise UserError(f"{told} should have its lower bound first, below the upper")
    if kind == "loguniform" and values[0] <= 0:
        raise UserError(f"{told} should have bounds above 0")


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    annotation = Config.model_fields[name].rebuild_annotation()
    return TypeAdapter(annotation, config=ConfigDict(strict=True, allow_inf_nan=False))


def check_value(name: str, value: Any, source: str) -> None:
    """Refuse what the config would refuse of this parameter alone, whatever the others are."""
    try:
        _adapter(name).validate_python(value)
    except ValidationError as error:
        first: dict[str, Any] = {**error.errors(include_url=False)[0], "loc": ("space", name)}
        raise UserError(explain_error(first, Config.model_fields, source)) from None
