"""The verbs of the command line; the only place where Hydra and the rest meet."""
