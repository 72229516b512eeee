"""HaMeR and WiLoR at a tiny size: a config, a hand, batches, and parameters from PyTorch's names."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxhand.config import Config, load
from jaxhand.hand.skinned import SkinnedHand
from jaxhand.interop import names
from jaxhand.models.mano_head import mean_mano_params

# Compiles several times as fast
quick_jit = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
)
GOLDEN_SIZES = (  # of the golden files
    *("data.image_size=256", "model.vit.width=64", "model.vit.depth=2", "model.vit.heads=4"),
    *("model.hamer.width=48", "model.hamer.depth=2", "model.hamer.heads=2", "model.hamer.head_width=16"),
    "model.hamer.mlp=96",
)


def config(name: str, *overrides: str) -> Config:
    """A config of the golden files' sizes."""
    return load(None, [f"model.name={name}", *GOLDEN_SIZES, *overrides])


def toy_hand(vertices: int = 40) -> SkinnedHand:
    """A hand of a few vertices around joints at about MANO's positions."""
    rng = np.random.default_rng(0)
    joints = np.zeros((16, 3))
    joints[0] = 95, 6, 6
    for digit, across in enumerate((25, 5, -35, -15)):  # index, middle, little, ring: away from the wrist along -x
        joints[3 * digit + 1 : 3 * digit + 4] = joints[0] + np.outer([90, 125, 150], [-1, 0, 0]) + [0, 0, across]
    joints[13:] = joints[0] + np.outer([25, 60, 90], [-0.7, 0, 0.7]) + [0, -5, 5]
    tips = 2 * joints[[15, 3, 6, 12, 9]] - joints[[14, 2, 5, 11, 8]]
    owner = np.arange(vertices) % 16
    template = np.concatenate([joints[owner] + rng.normal(0, 8, (vertices, 3)), tips, joints])
    weights = np.eye(16)[np.concatenate([owner, [15, 3, 6, 12, 9]])]
    directions = rng.normal(0, 1, (len(template), 3, 145)) * np.repeat([2, 0.5], [10, 135])
    directions[-16:, :, 10:] = 0
    faces = np.stack([np.arange(vertices - 2) + k for k in range(3)], -1).astype(np.int32)
    numbers = {
        "template": template,
        "shape_dirs": directions[..., :10],
        "pose_dirs": directions[..., 10:],
        "weights": weights,
        "mean_pose": np.zeros(45),
        "components": np.eye(45),
    }
    numbers = {name: value.astype(np.float32) for name, value in numbers.items()}
    return SkinnedHand(name="builtin", side="right", global_scale_per_beta=0.0, faces=faces, **numbers)


def build(model_class, config: Config, hand: SkinnedHand, seed: int = 0) -> nnx.Module:
    """A model whose parameters NumPy draws: nothing is compiled for it."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name, shape = path[-1].key, leaf.shape
        small = 0.01 if path[-2].key.startswith("dec") else 1.0  # the output layers start near zero
        spread = {"kernel": small / np.sqrt(shape[-2]) if len(shape) > 1 else 1.0, "positions": 0.02}.get(name, 0.1)
        return jnp.asarray(rng.normal(name in ("scale", "var"), spread, shape), leaf.dtype)

    graphdef, state = nnx.split(nnx.eval_shape(lambda: model_class(config, hand, nnx.Rngs(0))))
    model = nnx.merge(graphdef, jax.tree_util.tree_map_with_path(draw, nnx.to_pure_dict(state)))
    holder = model.mano_head if hasattr(model, "mano_head") else model.backbone
    holder.init_hand_pose, holder.init_betas, holder.init_cam = mean_mano_params(config.model.hamer.init, hand)
    return model


def make_batch(rows: int, size: int, seed: int = 0) -> dict:
    """Crops with a camera of 3 crops' width focal length, and a labelled hand in front of it."""
    rng = np.random.default_rng(seed)
    K = np.float32([[3 * size, 0, size / 2], [0, 3 * size, size / 2], [0, 0, 1]])
    joints = np.float32([0, 0, 700]) + rng.normal(0, 40, (rows, 21, 3)).astype(np.float32)
    seen = joints @ K.T
    return {
        "image": rng.uniform(0, 1, (rows, size, size, 3)).astype(np.float32),
        "K": np.tile(K, (rows, 1, 1)),
        "keypoints_3d": joints,
        "keypoints_2d": seen[..., :2] / seen[..., 2:],
        "joint_valid": np.ones((rows, 21), np.float32),
        "joint_valid_2d": np.ones((rows, 21), np.float32),
        "mano_pose": rng.normal(0, 0.3, (rows, 48)).astype(np.float32),
        "mano_shape": rng.normal(0, 1, (rows, 10)).astype(np.float32),
        "has_pose": np.ones(rows, np.float32),
    }


def put(model: nnx.Module, kind: str, weights: dict) -> None:
    """Copy the weights of a PyTorch checkpoint into a model, and remove them from `weights`."""

    def of(path, leaf):
        source = names.source_of(kind, jax.tree_util.keystr(path, simple=True, separator="/"), leaf.shape)
        taken = [source.transform(weights.pop(key)) for key in source.keys]
        array = np.stack(taken) if source.stacked else taken[0]
        assert array.shape == leaf.shape, (source.keys, array.shape, leaf.shape)
        return jnp.asarray(array)

    nnx.update(model, jax.tree_util.tree_map_with_path(of, nnx.to_pure_dict(nnx.state(model))))
    for key in [key for key in weights if key.endswith("num_batches_tracked")]:
        del weights[key]


def golden(shared, name: str) -> tuple[dict, dict]:
    """A golden file's weights, and its inputs and outputs."""
    with np.load(shared / "golden" / name) as file:
        everything = {key: file[key] for key in file.files if key != "config_json"}
    data = {key: value for key, value in everything.items() if key.split("/")[0] in ("in", "out", "out64")}
    return {key: value for key, value in everything.items() if key not in data}, data


def close(got, wanted, tolerance: float = 1e-4) -> None:
    """Assert that values are equal up to a fraction of the largest one."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max(), np.abs(got - wanted).max()
