"""The whole run as the entry point of a Ray job: `ray job submit --working-dir . -- python jobs/evolve.py CONFIG.yaml`.

`semievol submit CONFIG.yaml` needs no such file; this is for manifests and other submitters.
"""

import sys

from semievol.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
