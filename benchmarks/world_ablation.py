"""What each part of the photograph-like world is worth for photographs: parts are left out one by one.

`python -m benchmarks.world_ablation RUN FOLDER`, where RUN is a run folder of `python -m jaxhand.convert mediapipe` and
FOLDER a data set of the folder layout; its training split is what is tested on, and nothing is trained on it.

The backbone of the converted network is frozen. For each variant of the world, its features of N renders and their
labels determine two linear heads by ridge regression, in closed form: the joints relative to the wrist, and the
logarithm of the scale (mean depth over the focal length of the crop). The heads then read the photographs. So the
numbers of two rows differ by their renders alone. All crops follow the labelled joints (`data.crop_rule` mediapipe).
The last column is the PA-MPJPE of the network's own joints on the renders: how well it reads them, untrained.
"""

import argparse
import dataclasses
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxhand import config as configs
from jaxhand import data, models
from jaxhand.config import Config
from jaxhand.data import pipeline
from jaxhand.data.synthetic.photo_scene import PARTS
from jaxhand.metrics import mpjpe, pa_mpjpe
from jaxhand.models.mediapipe import Mediapipe
from jaxhand.training import pytree_checks
from jaxhand.training.checkpoint import restore_best
from jaxhand.training.step import as_float

RIDGES = (1.0, 3.0, 10.0)  # of standardised features, per sample
BATCH = 16


class Crops(typing.NamedTuple):
    """Features and labels of N hands."""

    features: np.ndarray  # (N, C)
    joints: np.ndarray  # (N, 21, 3) mm, relative to the wrist, axes of the crop
    log_scale: np.ndarray  # (N,) log of mean depth in mm / focal length of the crop in px


class Network:
    """The frozen network.

    Args:
        run: run folder of the converted network.
    """

    def __init__(self, run: Path):
        sets = ("data.image_size=224", "data.crop_rule=mediapipe", "model.name=mediapipe")
        self.config = configs.load(None, sets)
        graphdef, drawn, rest = nnx.split(models.build(self.config), nnx.Param, ...)
        params = pytree_checks.overlaid(nnx.to_pure_dict(drawn), restore_best(run).params)

        def read(image: jax.Array) -> tuple[jax.Array, jax.Array]:
            network = typing.cast(Mediapipe, nnx.merge(graphdef, params, rest))
            features = network.backbone(image)
            return features.pooled, network.read_features(features).world

        self._read = jax.jit(read)

    def crops(self, source: data.Source, config: Config) -> tuple[Crops, np.ndarray]:
        """Return the features of all records of a source, and the joints (N, 21, 3) that the network itself reads."""
        rows = []
        for batch in pipeline.eval_batches(source, config, BATCH):
            pooled, world = self._read(as_float(jnp.asarray(batch["image"])))
            joints, K = batch["keypoints_3d"], batch["K"]
            scale = np.log(joints[..., 2].mean(1) / K[:, 0, 0])
            row = (np.asarray(pooled), joints - joints[:, :1], scale, np.asarray(world))
            rows.append([array[batch["valid"] > 0] for array in row])
        features, joints, scale, world = (np.concatenate(column) for column in zip(*rows))
        return Crops(features, joints, scale), world


def ridge(crops: Crops, strength: float) -> typing.Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return a function from features (N, C) to joints (N, 21, 3) and log scale (N,), fitted on crops."""
    targets = np.concatenate([crops.joints.reshape(len(crops.joints), -1), crops.log_scale[:, None]], 1)
    middle, spread, center = crops.features.mean(0), crops.features.std(0) + 1e-6, targets.mean(0)
    X = ((crops.features - middle) / spread).astype(np.float64)
    gram = X.T @ X / len(X) + strength * np.eye(X.shape[1])
    weights = np.linalg.solve(gram, X.T @ (targets - center) / len(X))

    def read(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = (features - middle) / spread @ weights + center
        return found[:, :-1].reshape(-1, 21, 3), found[:, -1]

    return read


def errors(joints: np.ndarray, truth: Crops) -> tuple[float, float]:
    """Return the means of PA-MPJPE and wrist-relative MPJPE, mm, of joints (N, 21, 3)."""
    joints, targets = joints.astype(np.float32), truth.joints.astype(np.float32)
    return float(pa_mpjpe(joints, targets).mean()), float(mpjpe(joints, targets, root=0).mean())


def main() -> None:
    """Print a table with one row per variant of the world and strength of the ridge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1500, help="renders of each variant (%(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the renders (%(default)s)")
    parser.add_argument("--cache", default="", help="folder for the rendered images")
    parser.add_argument("--backgrounds", default="", help="folder of photographs for one more row")
    parser.add_argument(
        "--worlds",
        nargs="+",
        default=["all", "none", *PARTS, *(f"only:{part}" for part in PARTS)],
        help=f"all; none; only:PART,PART of the parts {', '.join(PARTS)}; or the part that is left out",
    )
    args = parser.parse_args()
    network = Network(args.run)
    photographs = data.load(f"folder:{args.folder}", "train", network.config.data, 0)
    truth, world = network.crops(photographs, network.config)
    print(
        "| world | ridge | PA-MPJPE | wrist-relative | spread of the log scale | its bias | own joints on the renders |"
    )
    print("|---|---|---|---|---|---|---|")
    pa, relative = errors(world, truth)
    print(f"| no renders: the network's own joints | | {pa:.2f} | {relative:.2f} | | | |", flush=True)
    for world in args.worlds:
        without = {"all": (), "none": PARTS}.get(world, (world,))
        if world.startswith("only:"):
            kept = world.removeprefix("only:").split(",")
            without = tuple(part for part in PARTS if part not in kept)
        photo = dataclasses.replace(network.config.data.photo, without=without, backgrounds=args.backgrounds)
        settings = {"train_samples": args.count, "cache": args.cache, "photo": photo}
        config = dataclasses.replace(network.config, data=dataclasses.replace(network.config.data, **settings))
        for seed in args.seeds:
            source = data.load("synthetic-photo", "train", config.data, seed)
            crops, own = network.crops(source, config)
            on_renders, _ = errors(own, crops)
            name = f"{'without ' if world in PARTS else ''}{world}, {args.count} renders, seed {seed}"
            for strength in RIDGES:
                joints, scale = ridge(crops, strength)(truth.features)
                pa, relative = errors(joints, truth)
                error = scale - truth.log_scale
                print(
                    f"| {name} | {strength} | {pa:.2f} | {relative:.2f} | {error.std():.3f} | {error.mean():+.3f} "
                    f"| {on_renders:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
