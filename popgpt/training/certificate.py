"""A certificate: what a run's model answers wrong of all prompts of its task. Its files, and what it says.

RUN/certificate/ holds the wrong answers of each part of the prompts that has been asked, while there are parts to ask;
in the end it holds certificate.json, the totals, and wrong.parquet, every wrong answer.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from popgpt.config import Role, parameters_of
from popgpt.data.membership import Membership
from popgpt.data.meta import SPLITS
from popgpt.lines.text import I64, Text, from_utf8, kinds, prompt_ends
from popgpt.storage.folder import Folder, json_bytes, parse_json
from popgpt.tasks.base import Source, Task
from popgpt.text.errors import UserError
from popgpt.training.checkpoint import config_of, open_view_of
from popgpt.training.evaluation import ask

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "certificate"
TOTALS = "certificate.json"
WRONG = "wrong.parquet"
FORMAT = 1
PART_PROMPTS = 2**13
MOST_PROMPTS = 10**9
FAST = 10_000  # prompts a second, for a model that is small
PLACES = (*SPLITS, "none")
_PART = re.compile(r"part-([0-9a-f]{16})-([0-9]{1,9})\.parquet")


def all_prompts(task: Task) -> Source:
    """Return every prompt of a task once, in a random order, so that all parts take equally long.

    Raises UserError if the task can't say which prompts there are, or there are too many to ask.
    """
    count = task.count_prompts()
    if count > MOST_PROMPTS:
        days = count / FAST / 86_400
        raise UserError(
            f"these options make {count:,} different prompts, more than the {MOST_PROMPTS:,} that certify asks: at "
            f"{FAST:,} a second they would take {f'{days:,.0f} days' if days < 1000 else f'{days / 365:,.0f} years'}; "
            "score a sample with `python -m popgpt.evaluate RUN_DIR --split test`, a larger one with more test_lines"
        )
    return task.source(count, 0)


def part_numbers(source: Source, part: int) -> I64:
    """Return the numbers of the prompts of a part."""
    return np.arange(part * PART_PROMPTS, min(len(source), (part + 1) * PART_PROMPTS))


def count_parts(source: Source) -> int:
    """Return how many parts the prompts are asked in."""
    return -(-len(source) // PART_PROMPTS)


def identify(state: dict[str, Any]) -> str:
    """Return a hash of what a certificate depends on: the weights, the dataset, the config but for its places."""
    config = config_of(state).model_dump(exclude=set(parameters_of(Role.PLACE)))
    known = [FORMAT, PART_PROMPTS, state["iteration"], state["fingerprint"], config]
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for name, tensor in sorted(state["model"].items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


class CertificateFolder:
    """The files of a certificate in a run's folder: those of one identity. Others are an earlier checkpoint's."""

    def __init__(self, folder: Folder, identity: str):
        self.folder = folder
        self.identity = identity

    def read_totals(self) -> dict[str, Any] | None:
        """Return what certificate.json holds; None if there is none of this identity."""
        try:
            found = parse_json(self.folder.read(TOTALS), TOTALS)
        except (FileNotFoundError, UserError):
            return None
        return found if isinstance(found, dict) and found.get("identity") == self.identity else None

    def discard_others(self) -> None:
        """Remove all but the parts of this identity."""
        ours = {self._name(part) for part in self._parts()}
        for name in sorted(self.folder.names() - ours):
            if name in (TOTALS, WRONG) or _PART.fullmatch(name):
                self.folder.remove(name)

    def wrong_by_part(self) -> dict[int, int]:
        """Return how many wrong answers each part has that has been asked."""
        import pyarrow as pa
        from pyarrow import parquet

        found = {}
        for part in self._parts():
            try:
                found[part] = parquet.read_metadata(io.BytesIO(self.folder.read(self._name(part)))).num_rows
            except pa.ArrowException:
                continue  # damaged: it is asked again
        return found

    def write_part(self, part: int, wrong: pa.Table) -> None:
        """Write the wrong answers of a part, which says that it has been asked."""
        self.folder.write(self._name(part), _parquet(wrong))

    def read_part(self, part: int) -> pa.Table:
        """Return the wrong answers of a part."""
        from pyarrow import parquet

        return parquet.read_table(io.BytesIO(self.folder.read(self._name(part))))

    def finish(self, totals: dict[str, Any], wrong: pa.Table) -> None:
        """Write the certificate that the parts make."""
        self.folder.write(WRONG, _parquet(wrong))
        self.folder.write(TOTALS, json_bytes(totals))

    def remove_parts(self) -> None:
        """Remove the parts, which a finished certificate needs no more."""
        for part in self._parts():
            self.folder.remove(self._name(part))

    def _name(self, part: int) -> str:
        return f"part-{self.identity[:16]}-{part}.parquet"

    def _parts(self) -> list[int]:
        matches = map(_PART.fullmatch, self.folder.names())
        return sorted(int(match[2]) for match in matches if match and match[1] == self.identity[:16])


def wrong_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Return wrong answers as a table: the prompt's number, its kind and text, what was written, the true answer."""
    import pyarrow as pa

    texts = [(name, pa.string()) for name in ("kind", "prompt", "written", "answer")]
    return pa.Table.from_pylist(rows, schema=pa.schema([("number", pa.int64()), *texts]))


def add_up(
    parts: CertificateFolder, source: Source, membership: Membership, state: dict[str, Any]
) -> tuple[dict[str, Any], pa.Table]:
    """Return what a certificate says, and all wrong answers with their splits, once every part has been asked."""
    import pyarrow as pa

    symbols, view = state["symbols"], open_view_of(state)
    counts = np.zeros((len(symbols) + 1, len(PLACES), 2), np.int64)  # by kind and split: wrong, all
    tables, not_held = [], 0
    for part in range(count_parts(source)):
        numbers, table = part_numbers(source, part), parts.read_part(part)
        kind = _kinds(source.text(numbers), state["separator"], symbols)
        place = membership.splits(source.keys(numbers)).astype(np.int64)  # -1 is the last of PLACES
        wrong = table.column("number").to_numpy() - numbers[0]
        np.add.at(counts[:, :, 0], (kind[wrong], place[wrong]), 1)
        np.add.at(counts[:, :, 1], (kind, place), 1)
        unanswered = table.filter(table.column("written").is_null()).column("prompt").to_pylist()
        not_held += sum(ask(view, prompt) is None for prompt in unanswered)
        split = pa.array([PLACES[each] for each in place[wrong]], pa.string())
        tables.append(table.drop_columns(["number"]).append_column("split", split))
    config, by_kind = config_of(state), counts.sum(1)
    totals = {
        **_named(counts.sum((0, 1))),
        "by_operation": {name: _named(pair) for name, pair in zip(symbols, by_kind, strict=False) if pair[1]},
        "by_split": {name: _named(pair) for name, pair in zip(PLACES, counts.sum(0), strict=True)},
        "not_held": not_held,
        "iteration": state["iteration"],
        "view": config.view,
        "task": config.task.model_dump(),
        "dataset_fingerprint": state["fingerprint"],
        "identity": parts.identity,
    }
    return totals, pa.concat_tables(tables)


def _named(pair: NDArray[np.int64]) -> dict[str, int]:
    wrong, prompts = pair.tolist()
    return {"prompts": prompts, "wrong": wrong}


def _kinds(text: Text, separator: str, symbols: str) -> I64:
    decoded = from_utf8(text.codes, text.offsets, ascii_only=bool((text.codes < 128).all()))
    return kinds(decoded, prompt_ends(decoded, separator), symbols)


def _parquet(table: pa.Table) -> bytes:
    from pyarrow import parquet

    sink = io.BytesIO()
    parquet.write_table(table, sink)
    return sink.getvalue()
