"""The one exception for what the user can mend: its text says found, wanted, what to do."""


class UserError(Exception):
    """Raised for bad flags, files, checkpoints, disks and networks.

    Commands print it as one sentence, without a traceback, and exit with status 1.
    """
