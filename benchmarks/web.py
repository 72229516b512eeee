"""The web page next to Python: size, time until the first result, ms per photograph in headless Chromium (WebAssembly).

`python -m benchmarks.web RUN IMAGE...`, after `make page` and with Chromium installed; `--detector` as of `jaxhand
export`. Page and Python read the same photographs in turn, one at a time, on the same machine; times of Python
are those of a predictor whose functions are compiled. Both find the palms and look at each hand twice.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import jaxhand
from jaxhand.data.images.encoded import read_image
from jaxhand.exporting import page_files, web_page
from jaxhand.inference.detection import load_detector
from jaxhand.inference.mediapipe_pipeline import RUN, has_networks


def main() -> None:
    """Write the page, use it in Chromium, and time Python on the same photographs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--detector", type=Path, default=RUN)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--camera", type=Path, help="a .y4m video that Chromium takes for the camera")
    arguments = parser.parse_args()
    predictor = jaxhand.load(arguments.run)
    detect = None if has_networks(arguments.run) else load_detector(str(arguments.detector))

    def predict(path: Path) -> None:
        image = read_image(path)
        found = detect(image) if detect else None
        predictor(image, found and found.boxes, found and found.sides)

    for path in arguments.images:  # compiles
        predict(path)
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "page.html")
        web_page.export(arguments.run, page, detector=arguments.detector)
        web_page.export(
            arguments.run, Path(folder, "page"), folder=True, detector=arguments.detector, say=lambda _: None
        )
        sizes = {file.name: file.stat().st_size / 1e6 for file in sorted(Path(folder, "page").iterdir())}
        print(f"folder {sum(sizes.values()):.1f} MB:", ", ".join(f"{name} {size:.2f}" for name, size in sizes.items()))
        browser, python = [], []
        for _ in range(arguments.rounds):
            found = use(page, arguments.images)
            browser += found["ms"]
            for path in arguments.images:
                start = time.perf_counter()
                predict(path)
                python.append(1000 * (time.perf_counter() - start))
            ready, first = found["readyMs"] / 1000, found["firstResultMs"] / 1000
            print(f"ready {ready:.1f} s, first photograph {first:.1f} s after the page was opened", flush=True)
        print(f"ms per photograph, median (least): page {middle(browser)}, Python {middle(python)}")
        if arguments.camera:
            found = use(page, [], camera=str(arguments.camera), frames=40)
            print(f"camera, one hand or more followed: {found['rate']}")


def middle(values: list[float]) -> str:
    """Median and minimum."""
    return f"{statistics.median(values):.0f} ({min(values):.0f})"


def use(page: Path, images: list[Path], **options) -> dict:
    """Open the page in Chromium; see web/test/browser.mjs."""
    job = {
        "chromium": shutil.which("chromium"),
        "url": f"file://{page}",
        "photographs": list(map(str, images)),
        "repeats": 2,
    }
    script = page_files.BUILD.parent / "test" / "browser.mjs"
    done = subprocess.run(["node", script, json.dumps(job | options)], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    if found["errors"]:
        raise SystemExit(f"the page failed: {found['errors']}")
    return found


if __name__ == "__main__":
    main()
