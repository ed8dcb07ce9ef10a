"""The transformer and its decoding."""
