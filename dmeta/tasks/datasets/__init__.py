"""Declarations of image data sets, one a file, and the classes of their splits."""
