"""Lines of one's own, which are there already: `popgpt.prepare --from-text` makes a dataset of them."""

from __future__ import annotations

from typing import ClassVar, Literal

from popgpt.tasks.base import Task


class OwnLines(Task):
    """Nothing is known of them but what the dataset holds: its separator, and every prompt its own canonical form."""

    generates: ClassVar[bool] = False
    name: Literal["text"] = "text"
