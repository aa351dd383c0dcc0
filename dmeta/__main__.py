"""`python -m dmeta` is `dmeta`."""

from dmeta.cli.main import main

main()
