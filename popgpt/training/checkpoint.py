"""The complete state of a run in one file: checksummed, replaced atomically, safe to load."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from popgpt.config import Config, UserError, make_config
from popgpt.data.vocabulary import Vocabulary
from popgpt.files import sync, write_atomic
from popgpt.model.gpt import GPT
from popgpt.training.folder import BEFORE_LAST, BEST, LAST

FORMAT = 1
SEAL = b"popgpt/sha256:"


def seal(state: dict[str, Any]) -> bytes:
    """torch.save's bytes followed by their SHA-256; torch.load reads them as they are."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getvalue()
    return content + SEAL + hashlib.sha256(content).digest()


def unseal(sealed: bytes, name: str) -> dict[str, Any]:
    """What `seal` was given. Raises UserError where a byte is missing or altered, or the content is not plain data."""
    size = len(sealed) - len(SEAL) - 32
    content, mark, digest = sealed[: max(size, 0)], sealed[max(size, 0) : -32], sealed[-32:]
    if mark != SEAL or hashlib.sha256(content).digest() != digest:
        raise UserError(f"{name}: torn or altered, or not a popgpt checkpoint: its checksum does not match")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{name}: refused: {str(error).splitlines()[0]}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{name}: not a checkpoint of format {FORMAT}")
    return state


def load(path: Path) -> dict[str, Any]:
    """The state in a file. Raises UserError."""
    try:
        return unseal(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


def save(state: dict[str, Any], out_dir: Path, best: bool) -> None:
    """Write the rolling state, keeping the one before it; `best` makes it ckpt.pt too, without writing it twice."""
    last = out_dir / LAST
    if last.exists():
        os.replace(last, out_dir / BEFORE_LAST)
    write_atomic(last, seal(state))
    if best:
        link = out_dir / f".{BEST}.{os.getpid()}"
        link.unlink(missing_ok=True)
        try:
            os.link(last, link)
        except OSError:  # a file system without hard links
            shutil.copyfile(last, link)
            sync(link)
        os.replace(link, out_dir / BEST)
        sync(out_dir)


def load_latest(out_dir: Path) -> dict[str, Any]:
    """The newest whole state in a run's folder. Raises UserError where there is none."""
    complaints = []
    for name in (LAST, BEFORE_LAST, BEST):
        if (out_dir / name).exists():
            try:
                return load(out_dir / name)
            except UserError as error:
                complaints.append(str(error))
    raise UserError(
        "; ".join(complaints) or f"out_dir={out_dir} holds no run to resume; start one with init_from=scratch"
    )


def load_best(path: Path) -> dict[str, Any]:
    """The state of a run's folder (its ckpt.pt) or of a checkpoint file. Raises UserError."""
    if path.is_dir() and not (path / BEST).exists():
        raise UserError(f"{path}: holds no {BEST}; is it the folder of a run?")
    return load(path / BEST if path.is_dir() else path)


def open_model(path: str | Path, device: torch.device) -> tuple[GPT, dict[str, Any]]:
    """The model of a run's folder (its ckpt.pt) or of a checkpoint file, ready to use, and the whole state."""
    state = load_best(Path(path))
    config = make_config(state["config"], str(path))
    model = GPT(config, len(Vocabulary(state["vocabulary"])))
    model.load_state_dict(state["model"])
    return model.to(device).eval(), state


def config_of(state: dict[str, Any]) -> Config:
    """The config that a state was trained with."""
    return make_config(state["config"], "checkpoint")
