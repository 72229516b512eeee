"""Import objects from a user's own modules, by the name `module:name`."""

import importlib
import os
import sys
import typing

from jaxhand.config import UserError


def load_object(spec: str, what: str) -> typing.Any:
    """Import an object, such as a function or a class, by its name `module:name`.

    The current folder is searched for the module, too. It stays on `sys.path`, so that the module can import other
    modules of this folder later.

    Args:
        spec: "module:name", such as "my_package.hands:load".
        what: kind of the object in error messages, such as "data set".

    Raises:
        UserError: `spec` has another form, the module cannot be imported, or the module has no such name.
    """
    module_name, _, name = spec.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        raise UserError(f"{what} must be module:name, such as my_module:{name or 'load'}, got {spec!r}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's module can raise anything while it is imported
        reason = " ".join(str(error).split())
        raise UserError(f"{what} {spec}: cannot import {module_name} ({type(error).__name__}: {reason})") from error
    if not hasattr(module, name):
        raise UserError(f"{what} {spec}: {module_name} has no {name}")
    return getattr(module, name)
