"""A run on disk: its files, folder or URL, checkpoints, lock, log, metrics and status. No Ray."""
