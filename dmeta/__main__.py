"""`python -m dmeta` is `dmeta`."""

from dmeta.cli import main

main()
