"""Faults on a real training, from outside, and whether it still ends with the same bits.

    python -m tests.chaos list
    python -m tests.chaos run server_kill partition_60s    # one training each; or: run all
    python -m tests.chaos at worker_kill@50 driver_kill@12.5s --steps 400
    python -m tests.chaos soak --minutes 30 --every 15 --seed 0 --out soak.json

Linux only; knows dmeta by its command line and the files it writes. Partitions need root and
iproute2, a full disk needs root; without, `run` says so and goes on with the others.
"""
