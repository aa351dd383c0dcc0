"""GPUs, and how many processes share a machine."""
