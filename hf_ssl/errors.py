"""Errors that the command line tells apart."""


class UsageError(ValueError):
    """A command line that cannot be understood: an unknown flag, a missing argument, a value of the wrong kind."""
