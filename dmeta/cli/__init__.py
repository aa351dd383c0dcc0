"""The verbs of the command line; the only place where Hydra and everything else meet."""
