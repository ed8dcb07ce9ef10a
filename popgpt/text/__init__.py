"""Text that may be shown."""
