"""Helpers for tests of `jaxhand predict`."""

import json
import re

from jaxhand import predict


def read_joints(folder):
    return json.loads((folder / "joints.json").read_text())["hands"]


def refused(call, *arguments):
    code, output, errors = call(predict.main, *arguments)
    assert code == 2 and re.fullmatch(r"error: [^\n]+\n", errors), errors
    return errors
