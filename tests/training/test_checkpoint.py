from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from popgpt.storage.folder import Folder
from popgpt.text.errors import UserError
from popgpt.training import checkpoint
from popgpt.training.folder import drop_states, keep_state
from tests.runs import some_state

STATE = {"iteration": 3, "model": {"weight": torch.arange(6.0)}, "scores": None}
SEALED = checkpoint.seal(STATE)
REAL = some_state(3)


def test_a_sealed_state_comes_back_and_torch_reads_it_too(tmp_path: Path) -> None:
    state = checkpoint.unseal(SEALED, "x")
    assert state["iteration"] == 3
    assert torch.equal(state["model"]["weight"], torch.arange(6.0))
    (tmp_path / "c.pt").write_bytes(SEALED)
    assert torch.load(tmp_path / "c.pt", weights_only=True)["iteration"] == 3


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [
        (0, True, {"ckpt.pt"}),
        (1, True, {"ckpt.pt", "state-100.pt"}),
        (0, False, {"state-100.pt"}),
        (2, False, {"state-100.pt", "state-30.pt"}),
    ],
)
def test_states_of_a_run_that_has_ended_go(tmp_path: Path, keep: int, best: bool, left: set[str]) -> None:
    for name in ("state-9.pt", "state-30.pt", "state-100.pt", *(["ckpt.pt"] if best else [])):
        (tmp_path / name).write_bytes(checkpoint.seal(REAL))
    drop_states(Folder(tmp_path), keep)
    assert Folder(tmp_path).names() == left
    assert checkpoint.load_latest(Folder(tmp_path)) is not None
    drop_states(Folder(tmp_path / "none"), keep)


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
        checkpoint.load(Folder(tmp_path), "p.pt")


def save(folder: Folder, iteration: int, best: bool = False, before: int | None = None) -> None:
    checkpoint.save({**REAL, "iteration": iteration}, folder)
    keep_state(folder, iteration, best, before)


def latest(folder: Folder) -> int:
    state = checkpoint.load_latest(folder)
    assert state is not None
    return state["iteration"]  # type: ignore[no-any-return]


def test_the_latest_whole_state_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Folder(tmp_path)
    assert checkpoint.load_latest(folder) is None
    save(folder, 8, best=True)
    save(folder, 9, before=8)
    save(folder, 10, before=9)
    assert latest(folder) == 10
    (tmp_path / "state-10.pt").write_bytes(SEALED[:100])
    assert latest(folder) == 9
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/state-10.pt: torn or altered, or not a popgpt checkpoint: its checksum does not match; "
        f"going on from state-9.pt"
    ]
    (tmp_path / "state-9.pt").write_bytes(b"")
    assert latest(folder) == 8
    (tmp_path / "ckpt.pt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"state-10\.pt: torn.*state-9\.pt: torn.*ckpt\.pt: torn"):
        checkpoint.load_latest(folder)


def test_two_states_are_kept_beside_the_best(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    save(folder, 1, best=True)
    for iteration in (2, 3, 4):
        save(folder, iteration, before=iteration - 1)
    assert folder.names() == {"ckpt.pt", "state-3.pt", "state-4.pt"}
    assert checkpoint.load(folder, "ckpt.pt")["iteration"] == 1
    (tmp_path / "state-4.pt").write_bytes(b"torn")
    save(folder, 4, before=3)
    assert folder.names() == {"ckpt.pt", "state-3.pt", "state-4.pt"}
    save(folder, 3, before=2)
    assert folder.names() == {"ckpt.pt", "state-3.pt"}, "what lies beyond was torn, or the run would be there"


def real_states(folder: Folder) -> bytes:
    """Two states of a real model in a folder; the newer's bytes."""
    for iteration in (1, 2):
        checkpoint.save({**REAL, "iteration": iteration}, folder)
    return folder.read("state-2.pt")


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damage_at_200_places_is_recognised_and_the_state_before_it_used(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Folder(tmp_path)
    whole = real_states(folder)
    random = np.random.default_rng(0)
    places = random.choice(len(whole) * (1 if damage == "cut" else 8), 200, replace=False)
    for place in map(int, places):
        altered = bytearray(whole)
        if damage == "cut":
            del altered[place:]
        else:
            altered[place // 8] ^= 1 << place % 8
        (tmp_path / "state-2.pt").write_bytes(altered)
        assert latest(folder) == 1
    assert sum("state-2.pt: torn or altered" in record.getMessage() for record in caplog.records) == 200
