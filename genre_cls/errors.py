"""What goes wrong by a user's doing and is told in one line, without a traceback."""


class UserError(Exception):
    """A mistake in the command, the configuration or the data; the entry points exit with code 2.

    The message is one line: the value, where it came from, what is allowed, what to do.
    """
