"""What a parameter is to a run, stated where its field is."""

from __future__ import annotations

from enum import Enum

from pydantic.fields import FieldInfo


class Role(Enum):
    """What a parameter decides. `name: Annotated[type, Role.X]` says it; without one it is a hyperparameter."""

    HYPERPARAMETER = "what a run learns, or how; a sweep may vary it"
    PLACE = "where a run takes place and is recorded; the result is the same everywhere"
    RUN = "where a run begins, and what is compared and kept of it"
    DATA = "what the dataset holds"


def role_of(field: FieldInfo) -> Role:
    """Return the role that a field states."""
    return next((part for part in field.metadata if isinstance(part, Role)), Role.HYPERPARAMETER)
