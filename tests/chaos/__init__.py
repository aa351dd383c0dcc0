"""Faults on a real training, from outside, and whether it still ends with the same bits.

`python -m tests.chaos --help`. Linux only; knows dmeta by its command line and the files it writes.
"""
