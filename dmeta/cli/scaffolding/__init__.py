"""The files that `dmeta new` writes."""
