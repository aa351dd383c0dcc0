"""Benchmarks: what a run costs, and what other choices would cost, in tables and plots."""
