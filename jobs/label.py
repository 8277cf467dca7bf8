"""Label and select, as a Ray job: `python jobs/label.py CONFIG.yaml`."""

import sys

from semievol.cli import main

if __name__ == "__main__":
    main(["run", "--until", "select", *sys.argv[1:]])
