"""One run: outer optimiser, loop, evaluation, checkpoints, results. Knows no Ray and no Hydra."""
