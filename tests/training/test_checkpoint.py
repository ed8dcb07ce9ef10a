from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from popgpt.config import UserError
from popgpt.training import checkpoint

STATE = {"iteration": 3, "model": {"weight": torch.arange(6.0)}, "scores": None}
SEALED = checkpoint.seal(STATE)


def test_a_sealed_state_comes_back_and_torch_reads_it_too(tmp_path: Path) -> None:
    state = checkpoint.unseal(SEALED, "x")
    assert state["iteration"] == 3
    assert torch.equal(state["model"]["weight"], torch.arange(6.0))
    (tmp_path / "c.pt").write_bytes(SEALED)
    assert torch.load(tmp_path / "c.pt", weights_only=True)["iteration"] == 3


@given(st.integers(0, len(SEALED) - 1))
def test_a_cut_is_recognised(length: int) -> None:
    with pytest.raises(UserError, match=r"^x: torn or altered"):
        checkpoint.unseal(SEALED[:length], "x")


@given(st.integers(0, 8 * len(SEALED) - 1))
def test_a_flipped_bit_is_recognised(bit: int) -> None:
    altered = bytearray(SEALED)
    altered[bit // 8] ^= 1 << bit % 8
    with pytest.raises(UserError, match=r"^x: torn or altered"):
        checkpoint.unseal(bytes(altered), "x")


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1/0",)


def test_a_hostile_pickle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="x: refused"):
        checkpoint.unseal(checkpoint.seal({"hostile": Hostile()}), "x")
    (tmp_path / "p.pt").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(UserError, match="not a popgpt checkpoint"):
        checkpoint.load(tmp_path / "p.pt")


def test_the_latest_whole_state_is_found(tmp_path: Path) -> None:
    for iteration in (1, 2, 3):
        checkpoint.save({**STATE, "iteration": iteration}, tmp_path, best=iteration == 1)
    assert checkpoint.load_latest(tmp_path)["iteration"] == 3
    (tmp_path / "last.pt").write_bytes(SEALED[:100])
    assert checkpoint.load_latest(tmp_path)["iteration"] == 2
    (tmp_path / "previous.pt").write_bytes(b"")
    assert checkpoint.load_latest(tmp_path)["iteration"] == 1
    (tmp_path / "ckpt.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"last\.pt: torn.*previous\.pt: torn.*ckpt\.pt: torn"):
        checkpoint.load_latest(tmp_path)


def test_saving_again_does_not_touch_the_best(tmp_path: Path) -> None:
    checkpoint.save({**STATE, "iteration": 1}, tmp_path, best=True)
    for iteration in (2, 3, 4):
        checkpoint.save({**STATE, "iteration": iteration}, tmp_path, best=False)
    assert checkpoint.load(tmp_path / "ckpt.pt")["iteration"] == 1
    assert {path.name for path in tmp_path.iterdir()} == {"ckpt.pt", "last.pt", "previous.pt"}
