"""Figures and pages: read run folders and results, and draw. No other room draws."""
