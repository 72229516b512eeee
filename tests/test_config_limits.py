"""Limits of files: above what formats and benchmarks need, as far as the memory for small files allows."""

import pytest

from jaxhand.config import limits

NEEDED = {  # the largest that is known → how many times as much is allowed, at most
    "YAML_CHARACTERS": (5_000, 200),
    "YAML_VALUES": (200, 200),
    "JSON_ENTRY": (300_000, 100),
    "FRAMES": (10_000, 20),
    "UNPACKED_BYTES": (150 * 10**6, 2),
    "UNPACKED_PER_BYTE": (3, 3),
    "SAMPLE_BYTES": (600_000, 10),
    "SAMPLES": (849_160, 3),
    "CONTAINERS": (500_000, 4),
    "PICKLE_KEYS": (1_000, 20),
    "SHARED_BYTES": (30_000_000, 4),
    "SHARED_PER_BYTE": (8, 3),
    "AXES": (5, 7),
    "LAYERS": (32, 50),
    "SPARSE_ELEMENTS": (778 * 16, 100),
    "NETWORK_BYTES": (6_000_000, 50),
    "NETWORK_ITEMS": (1_000, 10),
    "OPERATION_TENSORS": (4, 10),
    "TORCH_PICKLES": (4_000_000, 8),
    "PIXELS": (16320 * 12240, 2),
    "DEPTH_PIXELS": (4_000_000, 20),
    "DECODED_PIXELS": (10 * 16320 * 6120, 3),
}


@pytest.mark.parametrize("name", NEEDED)
def test_a_limit_is_above_what_is_needed_but_not_far_above(name):
    needed, factor = NEEDED[name]
    assert needed < getattr(limits, name) <= factor * needed


def test_limits_that_grow_with_a_file():
    assert limits.unpacked(10) == 200_000_080
    assert limits.containers(0) == 10**6 and limits.containers(10**7) == 1_500_000
    assert limits.shared(100) == 2**26 + 1600
