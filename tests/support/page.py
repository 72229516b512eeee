"""The web page's own code, run by Node and in headless Chromium."""

import base64
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from jaxhand.exporting import page_files

WEB = page_files.BUILD.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def node() -> str:
    """The path of Node; skips the test without it or without the page's packages."""
    path = shutil.which("node")
    if path is None:
        pytest.skip("needs Node 18 or newer")
    if not (WEB / "node_modules" / "esbuild").is_dir():
        pytest.skip("needs the page's packages: make web")
    return path


def compute(cases: list, folder: Path) -> list:
    """Call functions of the page.

    Args:
        cases: [name, arguments] each; arrays become lists.
        folder: for files.

    Returns:
        One result per case.
    """
    program, values, path = folder / "compute.mjs", folder / "cases.json", node()
    values.write_text(json.dumps(cases, default=lambda array: array.tolist()))
    bundle = ["--bundle", "--format=esm", "--platform=node", "--log-level=warning", f"--outfile={program}"]
    subprocess.run([WEB / "node_modules" / ".bin" / "esbuild", WEB / "test" / "compute.ts", *bundle], check=True)
    done = subprocess.run([path, program, values], check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def picture(image: np.ndarray) -> dict:
    """An image (H, W, 3) uint8 as `compute` takes it."""
    rgba = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    return {"width": image.shape[1], "height": image.shape[0], "rgba": base64.b64encode(rgba.tobytes()).decode()}


def browse(**job) -> dict:
    """Use the page in headless Chromium; web/test/browser.mjs describes the job and what it returns."""
    chromium = next(filter(None, map(shutil.which, BROWSERS)), None)
    if chromium is None:
        pytest.skip("needs Chromium")
    command = [node(), WEB / "test" / "browser.mjs", json.dumps(job | {"chromium": chromium}, default=str)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
