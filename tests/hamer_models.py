"""HaMeR and WiLoR at a tiny size: a config, a hand, batches, and parameters from PyTorch's names."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxhand.config import Config, load
from jaxhand.hand.skinned import SkinnedHand
from jaxhand.models.hamer import mean_hand

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
    """A hand of a few vertices around joints that lie about as MANO's."""
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
        "template": template, "shape_dirs": directions[..., :10], "pose_dirs": directions[..., 10:],
        "weights": weights, "mean_pose": np.zeros(45), "components": np.eye(45),
    }
    numbers = {name: value.astype(np.float32) for name, value in numbers.items()}
    return SkinnedHand(name="builtin", side="right", growth=0.0, faces=faces, **numbers)


def build(model_class, config: Config, hand: SkinnedHand, seed: int = 0) -> nnx.Module:
    """A model whose parameters NumPy draws: nothing is compiled for it."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name, shape = path[-1].key, leaf.shape
        small = 0.01 if path[-2].key.startswith("dec") else 1.0  # what reads out a hand says little
        spread = {"kernel": small / np.sqrt(shape[-2]) if len(shape) > 1 else 1.0, "positions": 0.02}.get(name, 0.1)
        return jnp.asarray(rng.normal(name in ("scale", "var"), spread, shape), leaf.dtype)

    graphdef, state = nnx.split(nnx.eval_shape(lambda: model_class(config, hand, nnx.Rngs(0))))
    model = nnx.merge(graphdef, jax.tree_util.tree_map_with_path(draw, nnx.to_pure_dict(state)))
    holder = model.mano_head if hasattr(model, "mano_head") else model.backbone
    holder.init_hand_pose, holder.init_betas, holder.init_cam = mean_hand(config.model.hamer.init, hand)
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


def put(model: nnx.Module, path: str, values: dict, *keys: str) -> None:
    """Give a layer at a dotted path the PyTorch weights (of several layers: stacked) under `keys`."""
    layer = model
    for name in path.split("."):
        layer = layer[int(name)] if name.isdecimal() else getattr(layer, name)
    for ours, theirs in (("kernel", "weight"), ("scale", "weight"), ("bias", "bias"), ("mean", "running_mean"),
                         ("var", "running_var")):
        variable = getattr(layer, ours, None)
        if variable is None or f"{keys[0]}.{theirs}" not in values:
            continue
        taken = [values.pop(f"{key}.{theirs}") for key in keys]
        if ours == "kernel":
            taken = [_kernel(array, variable[...].ndim - (len(keys) > 1)) for array in taken]
        array = np.stack(taken) if len(keys) > 1 else taken[0]
        assert array.shape == variable.shape, (path, array.shape, variable.shape)
        variable[...] = array


def _kernel(weight, rank: int):
    if weight.ndim == 2:
        return weight.T
    if rank == 4:  # transposed convolution (in, out, h, w), turned by half a turn
        return weight.transpose(2, 3, 0, 1)[::-1, ::-1]
    return weight.transpose(2, 3, 1, 0).reshape(-1, len(weight))  # convolution (out, in, h, w)


def put_backbone(model, values: dict) -> None:
    """Give `model.backbone` the PyTorch weights of HaMeR's transformer, and take them out of `values`."""
    positions = values.pop("backbone.pos_embed")[0]
    model.backbone.positions[...] = positions[1:] + positions[:1]
    put(model, "backbone.patch_embed.proj", values, "backbone.patch_embed.proj")
    put(model, "backbone.encoder.norm", values, "backbone.last_norm")
    for name in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        keys = (f"backbone.blocks.{i}.{name}" for i in range(model.backbone.encoder.depth))
        put(model, f"backbone.encoder.blocks.{name}", values, *keys)


def put_hamer(model, values: dict) -> None:
    """Give a `Hamer` the PyTorch weights of its transformer and head, and take them out of `values`."""
    put_backbone(model, values)
    layers = {
        **{"self_attention.norm": "0.norm", "self_attention.to_qkv": "0.fn.to_qkv"},
        **{"self_attention.to_out": "0.fn.to_out.0", "cross_attention.norm": "1.norm"},
        **{"cross_attention.to_q": "1.fn.to_q", "cross_attention.to_kv": "1.fn.to_kv"},
        **{"cross_attention.to_out": "1.fn.to_out.0", "feed_forward.norm": "2.norm"},
        **{"feed_forward.fc1": "2.fn.net.0", "feed_forward.fc2": "2.fn.net.3"},
    }
    head = "mano_head.transformer"
    for ours, theirs in layers.items():
        keys = (f"{head}.transformer.layers.{i}.{theirs}" for i in range(model.mano_head.transformer.depth))
        put(model, f"{head}.layers.{ours}", values, *keys)
    put(model, f"{head}.to_token_embedding", values, f"{head}.to_token_embedding")
    model.mano_head.transformer.pos_embedding[...] = values.pop(f"{head}.pos_embedding")
    put_numbers(model.mano_head, "mano_head", values)


def put_wilor(model, values: dict) -> None:
    """Give a `Wilor` the PyTorch weights of its transformer and refinement, and take them out of `values`."""
    put_backbone(model, values)
    for name in ("pose_emb", "shape_emb", "cam_emb"):
        put(model, f"backbone.{name}", values, f"backbone.{name}")
    put_numbers(model.backbone, "backbone", values)
    put(model, "refine_net.deconv.first", values, "refine_net.deconv.first_conv.0")
    for chain, step in ((0, 0), (1, 0), (1, 1)):
        for name, place in (("conv", 3 * step), ("norm", 3 * step + 1)):
            ours, theirs = f"deconv.chains.{chain}.{step}.{name}", f"deconv.deconv.{chain}.{place}"
            put(model, f"refine_net.{ours}", values, f"refine_net.{theirs}")
            values.pop(f"refine_net.{theirs}.num_batches_tracked", None)
    for name in ("dec_pose", "dec_shape", "dec_cam"):
        put(model, f"refine_net.{name}", values, f"refine_net.{name}")


def put_numbers(module, name: str, values: dict) -> None:
    """Give a module that reads out a hand its layers and its mean hand."""
    for layer in ("decpose", "decshape", "deccam"):
        put(module, layer, values, f"{name}.{layer}")
    for constant in ("init_hand_pose", "init_betas", "init_cam"):
        getattr(module, constant)[...] = values.pop(f"{name}.{constant}")


def golden(shared, name: str) -> tuple[dict, dict]:
    """A golden file's weights, and its inputs and outputs."""
    with np.load(shared / "golden" / name) as file:
        everything = {key: file[key] for key in file.files if key != "config_json"}
    data = {key: value for key, value in everything.items() if key.split("/")[0] in ("in", "out", "out64")}
    return {key: value for key, value in everything.items() if key not in data}, data


def close(got, wanted, tolerance: float = 1e-4) -> None:
    """Equal to a part of the largest number."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max(), np.abs(got - wanted).max()
