"""Objects from a user's own modules, by the name `module:name`: import them, and call them with clear errors."""

import importlib
import os
import sys
import traceback
import typing
from pathlib import Path

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


def call(where: str, function: typing.Callable, *arguments, **options) -> typing.Any:
    """Call a user's function.

    Args:
        where: what errors call it, such as "data set my_module:load".
        function: the function.
        arguments, options: its arguments.

    Raises:
        UserError: the function raised it, or anything else; then the message names the error and its place.
    """
    try:
        return function(*arguments, **options)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a user's function can raise anything
        raise UserError(f"{where} failed: {_described(error)}") from error


def _described(error: BaseException) -> str:
    """An error in one line, with the file and line number of the code outside this package that raised it."""
    package = str(Path(__file__).parents[1])
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(package)]
    place = f" ({os.path.basename(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{place}"
