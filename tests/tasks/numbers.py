"""Bounds of statistics that tests compare counts with."""

from __future__ import annotations

import math


def chi_square_bound(freedom: int) -> float:
    """What a chi-square statistic exceeds about once in 30,000 (Wilson & Hilferty 1931)."""
    if freedom == 0:
        return 1e-9
    ninth = 2 / (9 * freedom)
    return float(freedom * (1 - ninth + 4.0 * math.sqrt(ninth)) ** 3)
