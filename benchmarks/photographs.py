"""Fine-tuning MediaPipe's network on a folder of labelled photographs: what it reaches on poses that were left out.

`python -m benchmarks.photographs RUN FOLDER`, where RUN is a run of configs/photographs_synthetic.yaml and
FOLDER a data set of the folder layout (train.jsonl, test.jsonl).

The recipe is that of configs/photographs.yaml. Its backbone is frozen, so its features of the augmented views are
computed once, and every training runs on them: the same steps as `python -m jaxhand.train` makes, in seconds.

- "clusters": the training split is parted into 5 clusters of poses (k-means of aligned joints). Each is left out once;
  the numbers are means over all hands, each measured by the network that was not trained on its cluster.
- "test": trained on the whole training split; the crops of the test split come from the palm detector and the landmarks
  that the untuned network finds in its crop. No label is used for them.

The rows "on a surface" are of the joints of the built-in hand, fitted to the joints of the network.
"""

import argparse
import functools
import time
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxhand import config as configs
from jaxhand import data, models
from jaxhand.config import Config
from jaxhand.data import augment, pipeline
from jaxhand.hand import joint_mix, roi
from jaxhand.hand.builtin import surface
from jaxhand.hand.fitting import fit_all
from jaxhand.inference.mediapipe_pipeline import Pipeline, cut
from jaxhand.metrics import mpjpe, pa_mpjpe, procrustes_align
from jaxhand.models.efficientnet_lite import Features
from jaxhand.training import adaptation, losses, optimizer, pytree_checks
from jaxhand.training.checkpoint import restore_best
from jaxhand.training.step import as_float

CLUSTERS = 5
WAYS = "untuned", "joint mix and prior", "tuned"
RIDGE, RIDGE_2D = 0.1, 1.0
LABELS = ("keypoints_3d", "keypoints_2d", "joint_valid", "joint_valid_2d", "K")


class Tuning:
    """The network and its recipe, on features.

    Args:
        run: run folder of the converted network.
        config: the recipe.
        steps: length of a training.
    """

    def __init__(self, run: Path, config: Config, steps: int):
        self.config, best = config, restore_best(run)
        self.graphdef, drawn, self.rest = nnx.split(models.build(config), nnx.Param, ...)
        self.start = pytree_checks.overlaid(nnx.to_pure_dict(drawn), best.params)
        factors = optimizer.rate_factors(config.optimizer.rates, self.start)
        backbone = jax.tree.leaves(factors["backbone"])
        assert not any(backbone), "the recipe trains the backbone: its features change"
        self.tx = optimizer.build(
            config.optimizer, optimizer.schedule(config.optimizer, config.scheduler, steps), factors
        )
        self.alone = nnx.split(models.build(adaptation.mediapipes_alone(config)), nnx.Param, ...)[0]
        self.features = jax.jit(lambda images: self._network(self.start).backbone(images).pooled)
        self.predict = jax.jit(self._predict)
        self.predict_alone = jax.jit(functools.partial(self._predict, graphdef=self.alone))
        self._step = jax.jit(self._train_step)

    def _network(self, params: dict) -> nnx.Module:
        return nnx.merge(self.graphdef, params, self.rest)

    def _predict(self, params: dict, pooled, K, graphdef=None) -> dict:
        network = nnx.merge(graphdef or self.graphdef, params, self.rest)
        return network.placed(network.read_features(Features(None, None, pooled)), K)

    def _train_step(self, params: dict, state, batch: dict):
        def loss(params):
            predictions = self._predict(params, batch["pooled"], batch["K"])
            image = jnp.zeros((1, self.config.data.image_size))  # its size alone is read
            names = models.find(self.config.model.name).loss_terms
            terms = losses.terms(predictions, batch | {"image": image}, names, scales=losses.label_scales(batch))
            return losses.reduced(terms, self.config.loss)["loss"]

        updates, state = self.tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    def adapted(self, clean: dict, rows: np.ndarray) -> dict:
        """The start's parameters with mixes and prior, as `evaluate --fit-joint-mix` fits them, from these rows."""
        found = self.predict_alone(self.start, clean["pooled"][rows], clean["K"][rows])
        joints = clean["keypoints_3d"][rows]
        fitted = {
            "mix_2d": joint_mix.fit(found["keypoints_2d"], clean["keypoints_2d"][rows], ridge=RIDGE_2D),
            "mix_3d": joint_mix.fit(found["world"], joints, ridge=RIDGE, translated=True),
            "prior": adaptation.distance_prior(joints),
        }
        return self.start | jax.tree.map(jnp.float32, fitted)

    def ways(self, clean: dict, views: list[dict], left_out: np.ndarray) -> dict[str, dict]:
        """Parameters by the name of the row, of all records but those left out."""
        adapted = self.adapted(clean, np.flatnonzero(~left_out))
        rows = self.start, adapted, self.tuned(adapted, views, left_out)
        return dict(zip(WAYS, rows))

    def tuned(self, start: dict, views: list[dict], left_out: np.ndarray) -> dict:
        """Parameters trained on views of all records but those left out, averaged with the start."""
        params, state = start, self.tx.init(start)
        for view in views:
            kept = np.float32(~left_out[view["index"]])[:, None]
            masks = {key: view[key] * kept for key in ("joint_valid", "joint_valid_2d")}
            params, state = self._step(params, state, {key: view[key] for key in ("pooled", *LABELS)} | masks)
        weight = self.config.training.average_with_init
        return jax.tree.map(lambda end, begin: end + weight * (begin - end), params, start)


def augmented_views(tuning: Tuning, source, steps: int) -> list[dict]:
    """The batches of a training, with the features of their images in place of the images."""
    config, views = tuning.config, []
    colour = jax.jit(functools.partial(augment.color, config=config.data.augment))
    for step, batch in zip(range(steps), pipeline.train_iterator(source, config)):
        image = colour(jax.random.fold_in(jax.random.key(config.seed), step), as_float(batch["image"]))
        pooled = np.asarray(tuning.features(image))
        views.append({"pooled": pooled} | {key: np.array(batch[key]) for key in (*LABELS, "index")})
    return views


def clean_crops(tuning: Tuning, source) -> dict:
    """The features and labels of all records, in crops by their labels."""
    rows = []
    for batch in pipeline.eval_batches(source, tuning.config, tuning.config.training.batch_size):
        valid = batch["valid"] > 0
        pooled = np.asarray(tuning.features(as_float(jnp.asarray(batch["image"]))))
        rows.append({"pooled": pooled[valid]} | {key: np.array(batch[key][valid]) for key in LABELS})
    arrays = {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}
    return arrays | {"mirror": mirrors([source[i] for i in range(len(source))])}


def mirrors(records: list) -> np.ndarray:
    """Factors (N, 1, 3) that make right hands of all hands; the crop rule of the recipe does not mirror left hands."""
    return np.array([[[1 if record.hand == "right" else -1, 1, 1]] for record in records], np.float32)


def automatic_crops(tuning: Tuning, detector: Pipeline, source) -> dict:
    """The features of all records and their labels, in crops that no label was used for."""
    records = [source[i] for i in range(len(source))]
    images = [record.image for record in records]
    palms = detector.palms(images)
    first = [roi.of_palm(p[0]) if len(p) else roi.whole(*image.shape[1::-1]) for p, image in zip(palms, images)]
    squares = [roi.of_joints(found["keypoints_2d"]) for found in detector.read(images, first)]
    size = tuning.config.data.image_size
    crops = np.zeros((len(records), size, size, 3), np.uint8)
    for image, square, out in zip(images, squares, crops):
        cut(image, square, out)
    K = [s.matrix(size) @ record.K @ s.rotation().T for record, s in zip(records, squares)]
    joints = [record.keypoints_3d @ s.rotation().T for record, s in zip(records, squares)]
    pooled = [np.asarray(tuning.features(as_float(jnp.asarray(few)))) for few in np.array_split(crops, 5)]
    arrays = {"pooled": np.concatenate(pooled), "K": np.float32(K), "keypoints_3d": np.float32(joints)}
    return arrays | {"mirror": mirrors(records)}


def pose_clusters(joints: np.ndarray) -> np.ndarray:
    """The cluster (N,) of every hand (N, 21, 3) by its joints, rotated, moved and scaled onto each other."""
    aligned = joints
    for _ in range(3):
        aligned = np.asarray(procrustes_align(joints, np.broadcast_to(aligned.mean(0), joints.shape)))
    cv2.setRNGSeed(0)
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-4)
    points = np.float32(aligned).reshape(len(joints), -1)
    return cv2.kmeans(points, CLUSTERS, None, stop, 10, cv2.KMEANS_PP_CENTERS)[1][:, 0]


def errors(tuning: Tuning, params: dict, crops: dict) -> np.ndarray:
    """PA-MPJPE, wrist-relative and camera-space MPJPE (2, 3, N) mm: of the joints, and of those of a fitted surface."""
    found, truth = tuning.predict(params, crops["pooled"], crops["K"])["keypoints_3d"], crops["keypoints_3d"]
    both = np.asarray(found), fit_all(surface.builtin(), np.asarray(found) * crops["mirror"])[1] * crops["mirror"]
    return np.array([(pa_mpjpe(p, truth), mpjpe(p, truth, root=0), mpjpe(p, truth)) for p in both])


def main() -> None:
    """Print a table with one row per way to tune."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of the recipe")
    arguments = parser.parse_args()
    folder = f"folder:{arguments.folder}"
    sets = [f"data.train={folder}", f"data.test={folder}", f"training.init_from={arguments.run}"]
    config = configs.load("configs/photographs.yaml", [*sets, *arguments.settings])
    train, test = (data.load(folder, split, config.data, config.seed) for split in ("train", "test"))
    steps = pipeline.steps_per_epoch(train, config) * config.training.num_epochs
    tuning, begin = Tuning(arguments.run, config, steps), time.monotonic()
    views = augmented_views(tuning, train, steps)
    print(f"features of {steps} batches: {time.monotonic() - begin:.0f} s", flush=True)
    clean, found = clean_crops(tuning, train), automatic_crops(tuning, Pipeline.load(arguments.run), test)
    clusters, nothing = pose_clusters(clean["keypoints_3d"]), np.zeros(len(train), bool)
    rows = {name: np.zeros((2, 3, len(train))) for name in WAYS}
    for cluster in range(CLUSTERS):
        left_out = clusters == cluster
        for name, params in tuning.ways(clean, views, left_out).items():
            rows[name][..., left_out] = errors(tuning, params, {key: array[left_out] for key, array in clean.items()})
    begin = time.monotonic()
    ways = tuning.ways(clean, views, nothing)
    print(f"one training on features: {time.monotonic() - begin:.0f} s")
    print(f"clusters: {np.bincount(clusters).tolist()} hands")
    print(
        "| mm | clusters: PA-MPJPE | wrist-relative | camera space | test: PA-MPJPE | wrist-relative | camera space |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, params in ways.items():
        numbers = np.concatenate([rows[name].mean(2), errors(tuning, params, found).mean(2)], axis=1)
        for where, row in zip(("", ", on a surface"), numbers):
            print(f"| {name}{where} | {' | '.join(f'{number:.1f}' for number in row)} |")


if __name__ == "__main__":
    main()
