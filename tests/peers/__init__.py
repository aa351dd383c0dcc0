"""Comparisons with other libraries: meta-gradients, seconds and memory. Not part of the package."""
