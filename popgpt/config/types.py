"""The types that several parameters share, and the largest numbers that are possible."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

WIDEST, LONGEST, MOST_ROWS, MOST, FASTEST = 2**16, 2**20, 2**20, 2**31, 1e30
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Count = Annotated[int, Field(gt=0, le=MOST)]
RowCount = Annotated[int, Field(gt=0, le=MOST_ROWS)]
Width = Annotated[int, Field(gt=0, le=WIDEST)]
Workers = Annotated[int, Field(gt=0, le=1024)]
Probability = Annotated[float, Field(ge=0, lt=1)]
