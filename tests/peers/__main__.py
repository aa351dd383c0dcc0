"""``python -m tests.peers``: see `tests.peers.agreement`."""

import sys

from tests.peers.agreement import main

if __name__ == "__main__":
    sys.exit(main())
