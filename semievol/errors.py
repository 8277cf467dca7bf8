"""The exception type whose message is written for the user."""


class UserError(ValueError):
    """A problem that the user can fix. The message names the file, row, key or flag, and says how to fix it.

    `semievol.cli` prints it without a traceback and exits with code 2. Invariants of our own use `assert`.
    """
