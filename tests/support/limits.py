"""What the tests of hostile files share: a bound on their time, and the form of an error."""

import time

import pytest

from jaxhand.config import UserError


@pytest.fixture(autouse=True)
def little_time():
    """No test here may take more than 20 s."""
    started = time.process_time()
    yield
    assert time.process_time() - started < 20


def named(read, *match: str) -> None:
    """`read()` raises a UserError of one short line that contains every text of `match`."""
    with pytest.raises(UserError) as error:
        read()
    text = str(error.value)
    assert "\n" not in text and len(text) < 700
    for part in match:
        assert part in text, text
