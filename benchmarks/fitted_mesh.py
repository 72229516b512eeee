"""How well a surface that is fitted to joints fits: on hands with known vertices, and on labelled photographs.

`python -m benchmarks.fitted_mesh [RUN FOLDER]`: RUN is a run without a mesh, FOLDER a data set of the folder layout.
Known hands are those of the built-in world, whose joints get noise: 0 mm, or 2 mm across the ray of each joint and 6 mm
along it. The last table compares the labels with the joints of the network and with those of the fitted surface; the
distances "from the network's" are between these two.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxhand
from jaxhand.data.synthetic.scene import sample_scene
from jaxhand.hand.builtin import body, surface
from jaxhand.hand.camera import project
from jaxhand.hand.fitting import BATCH, fit_all
from jaxhand.metrics import mpjpe, pa_mpjpe

HANDS, ROUNDS = 512, 20
ACROSS, ALONG = 2.0, 6.0  # standard deviations of the noise, mm


def main() -> None:
    """Print a table of known hands and, with a run, one of photographs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("folder", type=Path, nargs="?")
    arguments = parser.parse_args()
    known_hands()
    if arguments.folder:
        photographs(arguments.run, arguments.folder)


def known_hands() -> None:
    """Print the errors of joints and vertices, and the time of a fit."""
    hand_model = surface.builtin()
    sample = jax.jit(jax.vmap(lambda index: sample_scene(body.random_numbers(0, index), "all")))
    scene = sample(jnp.arange(HANDS, dtype=jnp.uint32))
    truth = np.asarray(scene.joints)
    vertices = np.asarray(surface.vertices_of(scene.frames, scene.joints, scene.shape))
    rays = truth / np.linalg.norm(truth, axis=-1, keepdims=True)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, ACROSS, truth.shape)
    noise += (rng.normal(0, ALONG, (HANDS, 21)) - (noise * rays).sum(-1))[..., None] * rays
    print("| known hands | joints given | joints of the surface | vertices: median | mean | 95 % | worst hand |")
    print("|---|---|---|---|---|---|---|")
    for name, joints in (("true joints", truth), ("with noise", (truth + noise).astype(np.float32))):
        fitted, on_surface = fit_all(hand_model, joints)
        errors = np.linalg.norm(fitted - vertices, axis=-1)
        shown = [mpjpe(joints, truth).mean(), mpjpe(on_surface, truth).mean(), np.median(errors), errors.mean()]
        shown += [np.percentile(errors, 95), errors.mean(1).max()]
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in shown)} |", flush=True)
    for count in (1, BATCH):
        start = time.perf_counter()
        for _ in range(ROUNDS):
            fit_all(hand_model, truth[:count])
        print(f"{1e3 * (time.perf_counter() - start) / ROUNDS / count:.2f} ms per hand, {count} at a time", flush=True)


def photographs(run: Path, folder: Path) -> None:
    """Print the errors of the joints of a network and of the surfaces that are fitted to them."""
    print("| photographs | joints | PA-MPJPE | wrist-relative | median from the network's: mm | px |")
    print("|---|---|---|---|---|---|")
    predict = jaxhand.load(run)
    for split in ("train", "test"):
        labels = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]
        found = predict([folder / label["image"] for label in labels], K=[label["K"] for label in labels])
        images, first = np.unique(found["image"], return_index=True)  # the most certain hand of each photograph
        truth = np.array([labels[image]["joints_3d"] for image in images], np.float32)
        joints, K = found["keypoints_3d"][first], found["K"][first]
        mirror = np.where(found["is_right"][first, None, None], 1, np.array([-1, 1, 1], np.float32))
        on_surface = fit_all(surface.builtin(), joints * mirror)[1] * mirror
        apart = np.median(mpjpe(on_surface, joints))
        apart_2d = np.median(np.linalg.norm(project(on_surface, K) - project(joints, K), axis=-1))
        for name, points, rest in (
            ("network's", joints, " | "),
            ("surface's", on_surface, f"{apart:.2f} | {apart_2d:.2f}"),
        ):
            errors = f"{pa_mpjpe(points, truth).mean():.2f} | {mpjpe(points, truth, root=0).mean():.2f}"
            print(f"| {len(images)} of {split} | {name} | {errors} | {rest} |", flush=True)


if __name__ == "__main__":
    main()
