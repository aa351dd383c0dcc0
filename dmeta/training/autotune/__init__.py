"""Choosing how a block is computed: execution plan, chunk size and memory budget."""
