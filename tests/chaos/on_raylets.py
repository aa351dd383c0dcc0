"""A command on a cluster of several raylets: ``python -m tests.chaos.on_raylets 4 dmeta train``.

They are all on this machine, with one CPU each, and are gone when the command has ended.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.chaos.cluster import ClusterOptions, Kind, cluster
from tests.chaos.processes import none_left

if __name__ == "__main__":
    count, *command = sys.argv[1:]
    store = int(os.environ.get("STORE_BYTES", "200000000"))
    options = ClusterOptions(Kind.RAYLETS, num_nodes=int(count), object_store_bytes=store)
    with none_left(), cluster(options) as made:
        environment = {**made.environment, "RAY_ADDRESS": str(made.address)}
        sys.exit(subprocess.run(command, env=environment, check=False).returncode)
