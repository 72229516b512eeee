"""Objects of a user's own modules, by name."""

import sys

import pytest

from jaxhand.config import UserError
from jaxhand.io.plugins import load_object


def test_an_object_of_a_module_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_plugin_module.py").write_text("value = 7\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = list(sys.path)
    assert load_object("my_plugin_module:value", "thing") == 7
    assert sys.path == [*before, str(tmp_path)]  # at its end: it hides no installed module
    assert load_object("os.path:join", "thing") and sys.path == [*before, str(tmp_path)]  # once


@pytest.mark.parametrize("spec", ["math", "math:", ":sqrt", "math:1", "a b:c", "math:sqrt:x", "..math:sqrt"])
def test_other_forms_are_refused(spec):
    with pytest.raises(UserError, match="thing must be module:name, such as my_module:.*, got "):
        load_object(spec, "thing")


def test_faults_of_a_module_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "my_broken_module.py").write_text("raise SystemExit('no\\nway')\n")
    with pytest.raises(UserError, match=r"cannot import my_broken_module \(SystemExit: no way\)"):
        load_object("my_broken_module:x", "thing")
    with pytest.raises(UserError, match="thing math:no_such: math has no no_such"):
        load_object("math:no_such", "thing")
