"""Errors that a user can fix."""


class UserError(ValueError):
    """A mistake that a user can fix: in a path, a file, an argument. One line that names the thing and the fix."""


class ConfigError(UserError):
    """A mistake in a config file or in an override on the command line."""
