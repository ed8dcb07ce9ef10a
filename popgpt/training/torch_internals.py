"""Every use of what torch does not promise, with why."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch.optim import Adam, Optimizer

# Methods that torch keeps out of what it compiles, for which it imports its compiler at their first call.
NOT_COMPILED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


def leave_out_compiler() -> None:
    """Have torch's optimizers work without torch's compiler, whose import takes each process that trains two seconds.

    Nothing compiles an optimizer here: where it is not compiled, what they ask of the compiler does nothing.
    """
    if "torch._dynamo" in sys.modules:
        return
    for name in NOT_COMPILED:
        method = inner(getattr(Optimizer, name))
        method.__dynamo_disable = method
    Adam.step = torch.no_grad()(inner(Adam.step))  # type: ignore[method-assign]


def inner(method: Any) -> Any:
    """Return what a decorator of torch's has wrapped."""
    return getattr(method, "__wrapped__", method)
