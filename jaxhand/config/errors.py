"""Errors that a user can fix."""


class UserError(ValueError):
    """A mistake that a user can fix, such as a wrong path. The message is one line: what is wrong and how to fix it."""

    leaves_threads = False  # whether threads may still wait, so that the process must not wait for them at its end


class ConfigError(UserError):
    """A mistake in a config file or in an override on the command line."""
