"""Errors that a user can fix."""


class UserError(ValueError):
    """A mistake that a user can fix, such as a wrong path. The message is one line: what is wrong and how to fix it."""


class ConfigError(UserError):
    """A mistake in a config file or in an override on the command line."""
