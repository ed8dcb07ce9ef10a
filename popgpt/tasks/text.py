"""Lines of one's own, which are there already: `popgpt.prepare --from-text` makes a dataset of them."""

from __future__ import annotations

from typing import ClassVar, Literal

from popgpt.tasks.base import Task


class OwnLines(Task):
    """Lines of your own: their dataset says all that is known of them."""

    generates: ClassVar[bool] = False
    name: Literal["text"] = "text"
