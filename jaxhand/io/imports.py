"""Import of what a user names as "package.module:Name"."""

import importlib
import os
import sys
import typing

from jaxhand.config import UserError


def import_object(name: str, source: str) -> typing.Any:
    """Import a class or a function. Its module is looked for in the current folder, too.

    Args:
        name: "package.module:Name".
        source: what the name was given as, such as "model.name"; errors begin with it.

    Raises:
        UserError: the name has another form, the module cannot be imported, or has no such attribute.
    """
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise UserError(f"{source} must be package.module:Name, such as my_module:MyName, got {name!r}")
    sys.path.append(os.getcwd())
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{source} {name}: cannot import {module} ({error})") from None
    finally:
        sys.path.pop()
    if not hasattr(imported, attribute):
        raise UserError(f"{source} {name}: {module} has no {attribute}")
    return getattr(imported, attribute)
