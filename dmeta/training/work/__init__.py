"""What a worker does with a block: draws its tasks, computes them, packs the result."""
