"""Small helpers for files."""

import pytest

from jaxhand.config import UserError
from jaxhand.io import files


def test_a_fingerprint_of_code_ignores_comments_and_docstrings(tmp_path):
    def fingerprint(text: str) -> str:
        source = tmp_path / "code.py"
        source.write_text(text)
        return files.code_fingerprint(source)

    plain = fingerprint("def f(x):\n    return x + 1\n")
    assert fingerprint('"""Words."""\n# more\ndef f(x):\n    """Words."""\n    return (x + 1)  # why\n') == plain
    assert len({plain, fingerprint("def f(x):\n    return x + 2\n"), fingerprint('def f(x):\n    return "x"\n')}) == 3


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(UserError, match=f"{path}: .*check the path"):
            files.read_bytes(path)


def test_texts_of_a_file_become_one_short_line():
    """At most 120 ASCII characters, made of the first 1000; an error without a text is called by its kind."""
    assert files.one_line(" a\n  bé\t") == "a b\\xe9" and files.one_line("") == ""
    assert files.one_line("x" * 119) == "x" * 119 and files.one_line("x" * 121) == "x" * 120
    assert files.one_line(ValueError()) == "ValueError" and files.one_line(ValueError("why")) == "why"
    assert files.one_line("'") == "'"
