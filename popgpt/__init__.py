"""popgpt trains small character-level GPTs on line tasks and scores them by generated exact match."""

__version__ = "0.1.0"
