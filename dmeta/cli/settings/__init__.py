"""Composes and checks the settings of a command line: declared ones, presets, own files."""
