"""Shared fixtures: four forced host devices, and the research data where it lies beside the project."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden values and real photographs; tests that need it are skipped without it."""
    root = Path(os.environ.get("JAXHAND_SHARED", Path(__file__).parents[2] / "shared"))
    if not root.is_dir():
        pytest.skip(f"needs the golden values and photographs, not found at {root}")
    return root
