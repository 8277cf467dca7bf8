"""The one exception type whose message is meant for the person at the keyboard."""


class UserError(ValueError):
    """Something the user can mend: the message names the file, row, key or flag, and says how.

    `semievol.cli` prints it without a traceback and exits with code 2. Invariants of our own use `assert`.
    """
