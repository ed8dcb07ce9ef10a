"""popgpt trains small character-level GPTs on line tasks and scores them by generated exact match."""

import os

__version__ = "0.1.0"

# Before torch loads OpenMP: threads that wait for each other in a busy loop for long stand still together as soon as
# another program wants a core (docs/performance.md).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
