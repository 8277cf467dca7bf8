"""Do a whole run, as a Ray job: `ray job submit --working-dir . -- python jobs/evolve.py CONFIG.yaml`.

`semievol submit CONFIG.yaml` does not need this file. Kubernetes manifests and other submitters do.
"""

import sys

from semievol.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
