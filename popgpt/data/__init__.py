"""Lines on disk and rows in memory. Knows nothing of models."""
