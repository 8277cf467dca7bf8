"""Serve the models of a run, as a Ray job or service: `python jobs/serve.py RUN`."""

import sys

from semievol.cli import main

if __name__ == "__main__":
    main(["serve", *sys.argv[1:]])
