"""What a user can mend."""


class UserError(ValueError):
    """What a user can mend: a path, a file, a config. The message is one line that names the thing and the fix."""


class ConfigError(UserError):
    """A mistake in a config file or an override."""
