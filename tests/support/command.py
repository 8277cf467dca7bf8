"""The command line in a process of its own, as a user starts it."""

import os
import subprocess
import sys


def semievol(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `semievol` with these arguments, in this environment and more; the caller looks at the exit code."""
    command = [sys.executable, "-m", "semievol", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
