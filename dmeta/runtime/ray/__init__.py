"""Blocks computed by Ray actors: task workers, the parameter server, scheduling, faults."""
