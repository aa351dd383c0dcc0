"""The checks of `dmeta doctor`."""
