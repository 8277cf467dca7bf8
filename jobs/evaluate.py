"""Compare base, warm and evolved model, as a Ray job: `python jobs/evaluate.py CONFIG.yaml`.

Earlier stages that are not done run first.
"""

import sys

from semievol.cli import main

if __name__ == "__main__":
    main(["run", "--until", "evaluate/compare", *sys.argv[1:]])
