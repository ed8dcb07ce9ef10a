"""What a dataset is, as it stands in the schema of each of its files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from popgpt.lines.vocabulary import Vocabulary
from popgpt.text.errors import UserError

SPLITS = ("train", "val", "test")
FORMAT = 2
SCHEMA_KEY = b"popgpt"


@dataclass(frozen=True)
class Meta:
    """What a dataset is. Counts are of lines, lengths are in characters without the newline.

    task: the name of the task whose lines they are. options: what they were made with, under the names that parameters
    have on the command line (`task.operations`, `data_seed`). symbols: the characters that tell kinds of prompts apart.
    by_kind: split -> kind -> lines. shard_lengths: split -> per shard, length -> lines. characters_in: split ->
    character -> occurrences. overlaps: prompts, in canonical form, that are in two splits.
    """

    name: str
    task: str
    options: dict[str, Any]
    separator: str
    characters: str
    symbols: str
    split_seed: int
    lines: dict[str, int]
    by_kind: dict[str, dict[str, int]]
    shard_lengths: dict[str, list[dict[int, int]]]
    characters_in: dict[str, dict[str, int]]
    longest_answer: int
    overlaps: int
    fingerprint: str
    format: int = FORMAT

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The characters of all splits."""
        return Vocabulary(self.characters)

    def lengths(self, split: str) -> dict[int, int]:
        """Length -> lines of a split."""
        total: dict[int, int] = {}
        for shard in self.shard_lengths[split]:
            for length, count in shard.items():
                total[length] = total.get(length, 0) + count
        return dict(sorted(total.items()))

    def count_longer(self, split: str, length: float) -> int:
        """How many lines of a split have more characters than `length`."""
        return sum(count for each, count in self.lengths(split).items() if each > length)

    def to_json(self) -> str:
        """The text that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Meta:
        """Raises UserError where it is of another format."""
        values = json.loads(text)
        if values.get("format") != FORMAT:
            raise UserError(f"dataset of format {values.get('format')}, this popgpt reads {FORMAT}: prepare it again")
        for shards in values["shard_lengths"].values():
            shards[:] = [{int(length): count for length, count in shard.items()} for shard in shards]
        meta = cls(**{field.name: values[field.name] for field in fields(cls)})
        Vocabulary(meta.characters)  # raises ValueError where the characters are none
        return meta
