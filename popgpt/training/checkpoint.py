"""Checkpoints: the complete state of a run in one file, checksummed, replaced atomically, safe to load."""

from __future__ import annotations

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import torch

from popgpt.config import Config, make_config
from popgpt.data.dataset import Dataset, dataset_path, open_dataset
from popgpt.lines.text import NEWLINE
from popgpt.lines.vocabulary import Vocabulary
from popgpt.model.gpt import GPT
from popgpt.storage.folder import Folder
from popgpt.tasks.views import View
from popgpt.text.errors import UserError, shortened
from popgpt.training.folder import BEST, SWEEP, describe_error, state_name, state_names
from popgpt.training.state_check import check_state

FORMAT = 1
SEAL = b"popgpt/sha256:"
logger = logging.getLogger(__name__)


def seal(state: dict[str, Any]) -> bytes:
    """Return torch.save's bytes of a state followed by their SHA-256; torch.load reads them as they are."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getvalue()
    return content + SEAL + hashlib.sha256(content).digest()


def unseal(sealed: bytes, name: str) -> dict[str, Any]:
    """Return the state that `seal` was given. Raises UserError if a byte is altered or the content is not plain."""
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
    """Load the state in a file. Raises UserError if it is not the whole state of a run."""
    try:
        found = unseal(folder.read(name), folder.at(name))
    except OSError as error:
        raise UserError(f"{folder.at(name)}: {describe_error(error)}") from None
    check_state(found, folder.at(name))
    return found


def save(state: dict[str, Any], folder: Folder) -> None:
    """Write a state to its file in a run's folder."""
    folder.write(state_name(state["iteration"]), seal(state))


def load_latest(folder: Folder) -> dict[str, Any] | None:
    """Load the newest whole state in a run's folder; None if there is none at all. Warns of torn ones, and skips them.

    Raises UserError if there are states and none of them is whole.
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
    """Load ckpt.pt of a run's folder or of a sweep's winner, or a checkpoint file, by path or URI. Raises UserError."""
    return load(*find_best(where))


def find_best(where: str | Path) -> tuple[Folder, str]:
    """Return the folder and the name of the file that `load_best` loads. Raises UserError."""
    folder = Folder(where)
    try:
        if folder.is_file():
            return folder.parent, folder.name
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
        raise UserError(f"{where}: {describe_error(error)}") from None
    return folder, BEST


def open_model(path: str | Path, device: torch.device) -> tuple[GPT, dict[str, Any]]:
    """Return the model that `load_best` finds, ready to use, and the whole state."""
    state = load_best(path)
    config = make_config(state["config"], str(path))
    model = GPT(config, len(Vocabulary(state["vocabulary"])))
    model.load_state_dict(state["model"])
    return model.to(device).eval(), state


def config_of(state: dict[str, Any]) -> Config:
    """Return the config that a state was trained with."""
    return make_config(state["config"], "checkpoint")


def open_view_of(state: dict[str, Any]) -> View:
    """Return the view of a line that a state's model has."""
    alphabet = state["vocabulary"].replace(NEWLINE, "")
    return config_of(state).open_view(alphabet, state["separator"], state["longest_answer"])


def open_dataset_of(state: dict[str, Any], data_dir: str | None = None) -> Dataset:
    """Open the dataset that a state was trained on. Raises UserError if it is gone or another.

    data_dir: the folder of the datasets, if it has moved.
    """
    path = dataset_path(config_of(state).model_copy(update={"data_dir": data_dir} if data_dir else {}))
    dataset = open_dataset(path)
    if dataset.meta.fingerprint != state["fingerprint"]:
        raise UserError(
            f"the dataset in {path} is not the one this run was trained on "
            f"(fingerprint {dataset.meta.fingerprint[:12]}, should be {state['fingerprint'][:12]})"
        )
    return dataset
