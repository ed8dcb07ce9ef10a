"""What is learned: each file or folder here, but base, numbered and registry, is the task of that name."""
