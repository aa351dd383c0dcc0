"""Figures and pages: read run folders and results, draw. No other room draws."""
