"""The complete state of a run in one file: checksummed, replaced atomically, safe to load."""

from __future__ import annotations

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import torch

from popgpt.config import Config, make_config
from popgpt.lines.vocabulary import Vocabulary
from popgpt.model.gpt import GPT
from popgpt.storage.folder import Folder
from popgpt.text.errors import UserError, shortened
from popgpt.training import contents
from popgpt.training.folder import BEST, SWEEP, state_name, state_names, why

FORMAT = 1
SEAL = b"popgpt/sha256:"
logger = logging.getLogger(__name__)


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
        raise UserError(f"{name}: refused: {shortened(' '.join(str(error).split()))}") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{name}: not a checkpoint of format {FORMAT}")
    return state


def load(folder: Folder, name: str) -> dict[str, Any]:
    """The state in a file, which holds what a run's does. Raises UserError."""
    try:
        found = unseal(folder.read(name), folder.at(name))
    except OSError as error:
        raise UserError(f"{folder.at(name)}: {why(error)}") from None
    contents.check(found, folder.at(name))
    return found


def save(state: dict[str, Any], folder: Folder) -> None:
    """Write a state."""
    folder.write(state_name(state["iteration"]), seal(state))


def load_latest(folder: Folder) -> dict[str, Any] | None:
    """The newest whole state in a run's folder; None where there is none at all. What is torn is named and passed over.

    Raises UserError where there are states and none of them is whole.
    """
    complaints = []
    for name in [*state_names(folder), *({BEST} & folder.names())]:
        try:
            state = load(folder, name)
        except UserError as error:
            complaints.append(str(error))
        else:
            for complaint in complaints:
                logger.warning("%s; going on from %s", complaint, name)
            return state
    if complaints:
        raise UserError("; ".join(complaints))
    return None


def load_best(where: str | Path) -> dict[str, Any]:
    """The state of a run's folder (its ckpt.pt), of a sweep's (that of its winner) or of a checkpoint file, by path or
    URI. Raises UserError.
    """
    folder = Folder(where)
    try:
        if folder.is_file():
            return load(folder.parent, folder.name)
        if folder.path and not folder.path.exists():
            raise UserError(f"{where}: no such file or folder")
        if SWEEP in (names := folder.names()):
            if "best" not in names:
                raise UserError(
                    f"{where}: this sweep has no winner yet; give a trial's folder, such as trials/0000 in it"
                )
            folder = folder / "best"
        if BEST not in folder.names():
            raise UserError(f"{where}: holds no {BEST}; is it the folder of a run?")
    except OSError as error:
        raise UserError(f"{where}: {why(error)}") from None
    return load(folder, BEST)


def open_model(path: str | Path, device: torch.device) -> tuple[GPT, dict[str, Any]]:
    """The model of a run's folder (its ckpt.pt) or of a checkpoint file, ready to use, and the whole state."""
    state = load_best(path)
    config = make_config(state["config"], str(path))
    model = GPT(config, len(Vocabulary(state["vocabulary"])))
    model.load_state_dict(state["model"])
    return model.to(device).eval(), state


def config_of(state: dict[str, Any]) -> Config:
    """The config that a state was trained with."""
    return make_config(state["config"], "checkpoint")
