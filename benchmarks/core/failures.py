"""What ends a run; commands say it, and how to go on."""


class RunError(RuntimeError):
    """A run could not go on; the message says why, the cause in its last line."""


class FolderError(ValueError):
    """A file of a run folder cannot be read or written; the message names it and a remedy."""


class MissingDataError(RuntimeError):
    """Data that a task needs are not on this machine; the message says how to get them."""
