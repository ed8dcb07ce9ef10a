from __future__ import annotations

import subprocess
import sys

CALLS = """
import sys
import torch
from popgpt.training import state
from popgpt.training.optim import Muon
for kind in (torch.optim.AdamW, Muon):
    weight = torch.ones(2, 2, requires_grad=True)
    optimizer = kind([weight], lr=0.1)
    weight.grad = torch.ones(2, 2)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.zero_grad()
    assert (weight < 1).all()
assert "torch._dynamo" not in sys.modules
"""


def test_optimizers_import_no_compiler() -> None:
    subprocess.run([sys.executable, "-c", CALLS], check=True)
