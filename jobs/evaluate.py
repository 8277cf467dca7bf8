"""The comparison of base, warm and evolved model as the entry point of a Ray job: `python jobs/evaluate.py CONFIG.yaml`.

What it needs and is not there yet is made first.
"""

import sys

from semievol.cli import main

if __name__ == "__main__":
    main(["run", "--until", "evaluate/compare", *sys.argv[1:]])
