"""Configs, overrides and search spaces as text: right, mutated and hostile ones, by their number."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from popgpt.config import Config, dump_yaml
from popgpt.sweep.domain import KINDS
from popgpt.sweep.schema import SweepFile

NAMES = [*Config.model_fields, "n_embd"]
ODD = [
    "010", "0o17", "0x1F", "1:30", "1_000", "=", "<<", "~", "null", "yes", "on", ".inf", "-.INF", ".nan", "1e999",
    "-0.0",
    "9" * 100, "9" * 999, "9" * 5000, "-" + "9" * 300, "0x" + "f" * 3000, "1e-400", "''", '"\\0"', '"\\e[31m\\a"',
    '"\\uD800"', "!!int x", "!!python/object:os.system {}",
    "!!binary aaaa", "!!set {a, b}", "!local 1", "*nobody",
    "&a [*a]", "[1, [2, [3]]]", "{a: {b: {c: 1}}}", "{1: 2}", "{? [a] : 1}", "[]", "{}", "2020-01-01",
    "\u00e9\u4e2d\U0001f600",
    "x" * 3000, "\u202eabc", "a\tb", "'a\n\n b'", "|\n  text\n", "-1", "0", "1", "2", "3.5", "true", "muon",
]  # fmt: skip
HOSTILE: list[Callable[[random.Random], str]] = [
    lambda rng: "[" * rng.choice([10, 100, 3000, 60000]),
    lambda rng: "{a: " * rng.choice([10, 100, 3000]),
    lambda rng: "- " * rng.choice([10, 100, 3000]) + "1",
    lambda rng: bomb("[{}]", rng.randint(2, 30)),
    lambda rng: bomb("{{x: {}}}", rng.randint(2, 30)).replace("x: ", "", 1),
    lambda rng: "a: &a {x: 1}\n" + "".join(f"b{i}: &b{i} {{<<: [{', '.join(['*a'] * 9)}]}}\n" for i in range(9)),
    lambda rng: "".join(f"k{i}: {i}\n" for i in range(rng.choice([30, 300, 3000]))),
    lambda rng: "seed: 1\n" * 2,
    lambda rng: "d_model = 64\nbias = True\n",
    lambda rng: "a:\n\t- b\n",
    lambda rng: "%YAML 1.1\n---\nseed: 1\n---\nseed: 2\n",
    lambda rng: "".join(chr(rng.choice([rng.randrange(32), rng.randrange(0x3000), 0x1F600])) for _ in range(99)),
    lambda rng: "x" * rng.choice([70_000, 1_000_000]),
    lambda rng: "seed: '" + "\n" * 20_000,
]  # fmt: skip


def bomb(form: str, depth: int) -> str:
    """Aliases of aliases: a text whose values are nine times as many with each line."""
    lines = ["a0: &a0 [1, 2]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, depth)]
    return "\n".join([*lines, f"d_model: {form.format(f'*a{depth - 1}')}"])


def value(rng: random.Random) -> str:
    """What may stand for a value."""
    if rng.random() < 0.6:
        return rng.choice(ODD)
    return rng.choice(
        [str(rng.randint(-5, 2**40)), repr(rng.uniform(-1, 10)), str(rng.randint(1, 9)), str(10 ** rng.randint(1, 80))]
    )


def right(name: str) -> str:
    """A parameter with a value that is right."""
    name = {"n_embd": "d_model"}.get(name, name)
    return dump_yaml({name: Config.model_fields[name].default})


def domain(rng: random.Random) -> str:
    """What may stand for a domain."""
    values = ", ".join(value(rng) for _ in range(rng.choice([0, 1, 2, 2, 3])))
    parts = [f"{rng.choice([*KINDS, 'values', 'choise'])}: [{values}]"]
    if rng.random() < 0.3:
        parts = [f"divisors_of: {rng.choice([*NAMES, value(rng)])}"]
        parts += [f"between: [{value(rng)}, {value(rng)}]"] if rng.random() < 0.4 else []
    if rng.random() < 0.3:
        parts.append(f"when: {{{rng.choice(NAMES)}: {value(rng)}}}")
    return "{" + ", ".join(parts) + "}"


def good_domain(rng: random.Random) -> str:
    """A domain of a size, such as may be right."""
    low = rng.choice([1, 2, 8, 16])
    forms = [f"{{choice: [{low}, {low * 2}, {low * 3}]}}", f"{{randint: [{low}, {low * 2 ** rng.randint(1, 27)}]}}"]
    forms += [f"{{grid: [{', '.join(map(str, range(low, low + rng.choice([2, 30, 300]))))}]}}"]
    forms += [f"{{divisors_of: {rng.choice(['d_model', 'max_iters', 'block_size', 'lr_decay_iters'])}}}"]
    when = rng.choice(["optimizer: adamw", "d_model: [8, 16]", "n_layer: 2"])
    return rng.choice(forms)[:-1] + (f", when: {{{when}}}}}" if rng.random() < 0.3 else "}")


def config(rng: random.Random) -> str:
    """A config's text."""
    if rng.random() < 0.15:
        return rng.choice(HOSTILE)(rng)
    names = rng.sample(NAMES, rng.randint(0, 4))
    wrong = rng.choice([0.0, 0.0, 0.5, 1.0])
    text = "".join(f"{name}: {value(rng)}\n" if rng.random() < wrong else right(name) for name in names)
    return mutated(text, rng) if rng.random() < 0.3 else text


def space(rng: random.Random) -> str:
    """A search space's text, of the config base.yaml."""
    if rng.random() < 0.1:
        return rng.choice(HOSTILE)(rng)
    sizes = ["d_model", "max_iters", "n_layer", "block_size", "batch_size", "warmup_iters", "d_head", "eval_interval"]
    lines = [f"  {name}: {good_domain(rng)}" for name in sizes if rng.random() < 0.25]
    if rng.random() < 0.4:
        lines += [
            f"  {rng.choice([*NAMES, value(rng)])}: {rng.choice([domain, value])(rng)}"
            for _ in range(rng.randint(1, 3))
        ]
    keys = {"config": "base.yaml", "num_samples": str(rng.choice([1, 9, 99, 999, 5000]))}
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        keys[rng.choice([*SweepFile.model_fields, "asha: {grace_period", "num_trials"])] = value(rng)
    text = "".join(f"{key}: {given}{'}' if '{' in key else ''}\n" for key, given in keys.items() if key != "space")
    text += "space:\n" + "\n".join(lines) + "\n"
    return mutated(text, rng) if rng.random() < 0.2 else text


def mutated(text: str, rng: random.Random) -> str:
    """The text with a few of its characters taken out, doubled or replaced."""
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        text = (
            text[:at]
            + rng.choice(["", text[at : at + 3], "\t", "\x07", ": ", "{", "]", "&a ", "*a", "\u2028", '"'])
            + text[at + rng.randint(0, 2) :]
        )
    return text


def overrides(rng: random.Random) -> list[str]:
    """Words as one may type them."""
    keys = [
        *NAMES,
        *SweepFile.model_fields,
        "asha.grace_period",
        "asha.max_t",
        "resources.cpus_per_trial",
        "lr",
        "\x1b[31m",
    ]
    return [
        f"{rng.choice(keys)}{rng.choice(['=', '=', '=', ''])}{rng.choice([value, domain])(rng)}"
        for _ in range(rng.choice([0, 0, 0, 0, 1, 2]))
    ]


def base() -> str:
    """A config that any space may rest on."""
    given: dict[str, Any] = {"max_iters": 1000, "d_model": 64, "d_head": 16, "train_lines": 400, "val_lines": 60}
    return dump_yaml({**given, "test_lines": 60, "task": {"operations": "+-"}, "device": "cpu"})
