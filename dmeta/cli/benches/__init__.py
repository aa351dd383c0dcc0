"""The parts of `dmeta bench`: one module for each measurement."""
