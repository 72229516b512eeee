"""Small helpers for files: reading with clear errors, and fingerprints of source code."""

import ast
import hashlib
import typing
from pathlib import Path

from jaxhand.config import UserError
from jaxhand.config.json_text import parse_json

# What Python raises when parsed content has another form than expected: a key is missing, text in place of a number …
MALFORMED = (AttributeError, LookupError, TypeError, ValueError, OverflowError)


def read_bytes(file: Path) -> bytes:
    """Read a file.

    Raises:
        UserError: the file does not exist or cannot be read.
    """
    try:
        return file.read_bytes()
    except (OSError, ValueError) as error:
        raise unreadable(file, error) from None


def read_json(file: Path) -> typing.Any:
    """Read a JSON file of a data set.

    Raises:
        UserError: the file does not exist, cannot be read, or is not JSON.
    """
    content = read_bytes(file)
    try:
        return parse_json(content)
    except ValueError as error:
        raise UserError(f"{file}: not valid JSON ({error}); download the file again") from None


def unreadable(file: Path, error: OSError | ValueError) -> UserError:
    """Return the UserError for a file of a data set that the operating system could not read.

    Args:
        file: the file.
        error: the error of the operating system, or Python's ValueError for a path with a NUL character.
    """
    reason = (getattr(error, "strerror", None) or "cannot be read").lower()
    return UserError(f"{file}: {reason}; check the path, or download this file of the data set again")


def one_line(text: object) -> str:
    """Return a text or an error's message as one short ASCII line. Such a message can contain any text of a file."""
    line = ascii(" ".join(str(text).split())[:1000])[1:-1][:120]
    return line or (type(text).__name__ if isinstance(text, Exception) else "")


def code_fingerprint(*sources: str | Path) -> str:
    """Return a hash (64 hex digits) of Python source files. Comments, docstrings and layout do not change the hash."""
    digest = hashlib.sha256()
    for source in sources:
        tree = ast.parse(Path(source).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()
