"""Adapt a network to the joints of a data set without training: its linear mixes of joints are fitted.

See `hand.joint_mix`. The network is then a start for a training, and its numbers on other sets need no training at all.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from jaxhand import data
from jaxhand.config import Config, UserError, to_dict
from jaxhand.data.batch import Batch
from jaxhand.hand import joint_mix
from jaxhand.training import pytree_checks, run_dir
from jaxhand.training.checkpoint import Checkpoints, restore_best
from jaxhand.training.eval_loop import batches_of, evaluate_dataset
from jaxhand.training.sharding import make_mesh, replicated
from jaxhand.training.step import EvalModel

LEAST_VARIANCE = 1e-4  # of the prior: 1 %
MODELS = ("mediapipe", "photo_net")  # those with mixes of joints


def fit_joint_mix(
    workdir: str | Path, name: str, split: str, out: str | Path, *, ridge: float = 0.1, ridge_2d: float | None = None
) -> Path:
    """Fit the mixes of a run on a data set, and write them with the network to a new run folder.

    The distances of the data set become the prior of model "photo_net".

    Args:
        workdir: run folder of one of `MODELS`, such as `jaxhand convert mediapipe` writes.
        name: data set, as in `data.train`. Hands without a label of every joint are left out.
        split: of the data set.
        out: folder to write.
        ridge: see `hand.joint_mix.fit`.
        ridge_2d: the same for the joints in px; None: `ridge`.

    Returns:
        `out`.

    Raises:
        UserError: the run's model has no mixes, no hand of the set has all labels, or `out` holds checkpoints.
    """
    out, best = Path(out), restore_best(workdir, sharding=replicated(make_mesh()))
    if best.config.model.name not in MODELS:
        of = " and ".join(map(repr, MODELS))
        raise UserError(f"{workdir} is a run of model {best.config.model.name!r}: only {of} have mixes of joints")
    if any((out / "checkpoints").glob("[0-9]*")):
        raise UserError(f"{out} holds checkpoints already: choose another folder")
    config = adapted(best.config)
    eval_model = EvalModel(mediapipes_alone(config), make_mesh())
    params = pytree_checks.overlaid(eval_model.draw(), best.params)
    collected = []

    def collect(batch: Batch, predictions: dict) -> None:
        rows = (batch["valid"] > 0) & batch["joint_valid"].all(-1) & batch["joint_valid_2d"].all(-1)
        pairs = (
            (predictions, "keypoints_2d"),
            (batch, "keypoints_2d"),
            (predictions, "world"),
            (batch, "keypoints_3d"),
        )
        collected.append([np.array(arrays[key][rows]) for arrays, key in pairs])

    source = data.load(name, split, config.data, config.seed)
    evaluate_dataset(eval_model, params, best.rest, batches_of(source, eval_model), collect=collect)
    pixels, true_pixels, joints, true_joints = (np.concatenate(arrays) for arrays in zip(*collected))
    if not len(pixels):
        raise UserError(f"{name}: no hand has a label of every joint")
    mixes = {
        "mix_2d": joint_mix.fit(pixels, true_pixels, ridge=ridge if ridge_2d is None else ridge_2d),
        "mix_3d": joint_mix.fit(joints, true_joints, ridge=ridge, translated=True),
    }
    params |= {key: np.float32(mix @ np.float64(params[key])) for key, mix in mixes.items()}
    if "prior" in params:
        params["prior"] = distance_prior(true_joints)
    run_dir.prepare(out, config)
    origin = {"kind": "joint_mix", "file": f"{workdir}, joints of {len(pixels)} hands of {name}", "partial": False}
    checkpoints = Checkpoints(out)
    trees = jax.device_put({"params": params, "rest": best.rest}, replicated(make_mesh()))
    meta = {"epoch": 0, "config": to_dict(config), "converted": origin}
    checkpoints.save(0, **trees, optimizer={}, data={}, meta=meta, avg_metric=None)
    checkpoints.close()
    return out


def distance_prior(joints: np.ndarray) -> np.ndarray:
    """The parameter `prior` (2,) of `PhotoNet`, from the joints (N, 21, 3) mm of a data set."""
    log_depth = np.log(np.maximum(joints[..., 2].astype(np.float64).mean(1), 1))
    return np.array([log_depth.mean(), np.log(log_depth.var() + LEAST_VARIANCE)], np.float32)


def mediapipes_alone(config: Config) -> Config:
    """The config of a network whose joints are those of MediaPipe's heads, which the mixes change."""
    if config.model.name != "photo_net":
        return config
    model = dataclasses.replace(config.model, options=config.model.options | {"share": 0.0})
    return dataclasses.replace(config, model=model)


def adapted(config: Config) -> Config:
    """The config of a network with mixes, whose crops follow the labels."""
    model = dataclasses.replace(config.model, options=config.model.options | {"adapt": True})
    return dataclasses.replace(config, model=model, data=dataclasses.replace(config.data, crop_rule="mediapipe"))
