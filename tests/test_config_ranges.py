"""The allowed values of a number: both ends, and how a message describes them."""

import math

import pytest

from jaxhand.config.ranges import Range


@pytest.mark.parametrize(
    ("allowed", "text", "inside", "outside"),
    [
        (Range(), "at least 0 and finite", (0, 1e300, 10**400), (-1e-9, math.inf, math.nan)),
        (Range(least=2), "at least 2 and finite", (2, 3), (1.9, -math.inf)),
        (Range(least=-1), "at least -1 and finite", (-1, 0), (-1.1,)),
        (Range(most=4096), "between 0 and 4,096", (0, 4096), (-1, 4097)),
        (Range(least=1, most=4096), "at least 1 and at most 4,096", (1, 4096), (0.5, 4097)),
        (Range(above=0), "positive and finite", (1e-300,), (0, -1, math.inf)),
        (Range(above=0, most=10), "positive and at most 10", (10,), (0, 10.1)),
        (Range(below=1), "below 1 and at least 0", (0, 0.999), (1, -0.1)),
        (Range(least=-math.inf), "at least -inf and finite", (-1e300,), (-math.inf,)),
    ],
)
def test_range(allowed, text, inside, outside):
    assert str(allowed) == text
    assert all(value in allowed for value in inside)
    assert not any(value in allowed for value in outside)
