"""Checkpoints of HaMeR, WiLoR and ViTPose → run folders: golden outputs, a report on every key, clear errors."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from jaxhand import config as configs
from jaxhand import convert, hand
from jaxhand.config import UserError
from jaxhand.interop import checkpoints as interop
from jaxhand.training import eval_loop, loop, pytree_checks
from jaxhand.training.checkpoint import CheckpointError, Checkpoints, restore_best
from jaxhand.training.sharding import make_mesh
from jaxhand.training.step import Trainer
from tests.support.hamer_models import close, golden, quick_jit, toy_hand
from tests.support.torch_files import save

WIDTH, DEPTH, TOKEN, INNER = 16, 3, 24, 64
HEADS = ["model.vit.heads=4"]  # unknown for this width


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """No test here needs a mesh."""
    monkeypatch.setattr(hand, "load", lambda config: toy_hand())


def numbers(*shape) -> np.ndarray:
    return np.random.default_rng(shape).normal(0, 0.1, shape).astype(np.float32)


def layer(name: str, outputs: int, inputs: int, *more: int, bias: bool = True) -> dict:
    return {f"{name}.weight": numbers(outputs, inputs, *more)} | ({f"{name}.bias": numbers(outputs)} if bias else {})


def norm(name: str, width: int) -> dict:
    return {f"{name}.weight": numbers(width) + 1, f"{name}.bias": numbers(width)}


def transformer() -> dict:
    """The backbone's keys, for crops of 64x48 px."""
    state = {"pos_embed": numbers(1, 13, WIDTH)} | norm("last_norm", WIDTH)
    state |= layer("patch_embed.proj", WIDTH, 3, 16, 16)
    for i in range(DEPTH):
        block = f"blocks.{i}"
        state |= norm(f"{block}.norm1", WIDTH) | norm(f"{block}.norm2", WIDTH)
        state |= layer(f"{block}.attn.qkv", 3 * WIDTH, WIDTH) | layer(f"{block}.attn.proj", WIDTH, WIDTH)
        state |= layer(f"{block}.mlp.fc1", 4 * WIDTH, WIDTH) | layer(f"{block}.mlp.fc2", WIDTH, 4 * WIDTH)
    return {name: value + i for i, (name, value) in enumerate(state.items())}  # all different


def mean(prefix: str) -> dict:
    return {f"{prefix}.init_{name}": numbers(1, n) for name, n in (("hand_pose", 96), ("betas", 10), ("cam", 3))}


def hamer() -> dict:
    state = {f"backbone.{name}": value for name, value in transformer().items()} | mean("mano_head")
    decoder = "mano_head.transformer"
    state |= layer(f"{decoder}.to_token_embedding", TOKEN, 1) | {f"{decoder}.pos_embedding": numbers(1, 1, TOKEN)}
    for i in range(2):
        block = f"{decoder}.transformer.layers.{i}"
        for part in range(3):
            state |= norm(f"{block}.{part}.norm", TOKEN)
        state |= layer(f"{block}.0.fn.to_qkv", 3 * INNER, TOKEN, bias=False)
        state |= layer(f"{block}.0.fn.to_out.0", TOKEN, INNER) | layer(f"{block}.1.fn.to_out.0", TOKEN, INNER)
        state |= layer(f"{block}.1.fn.to_kv", 2 * INNER, WIDTH, bias=False)
        state |= layer(f"{block}.1.fn.to_q", INNER, TOKEN, bias=False)
        state |= layer(f"{block}.2.fn.net.0", 40, TOKEN) | layer(f"{block}.2.fn.net.3", TOKEN, 40)
    for name, outputs in (("decpose", 96), ("decshape", 10), ("deccam", 3)):
        state |= layer(f"mano_head.{name}", outputs, TOKEN)
    judge = layer("D_conv1", 32, 9, 1, 1) | layer("D_conv2", 32, 32, 1, 1) | layer("betas_fc1", 10, 10)
    judge |= layer("betas_fc2", 5, 10) | layer("betas_out", 1, 5) | layer("D_alljoints_fc1", 1024, 480)
    judge |= layer("D_alljoints_fc2", 1024, 1024) | layer("D_alljoints_out", 1, 1024)
    for i in range(15):
        judge |= {name: value + i for name, value in layer(f"pose_out.{i}", 1, 32).items()}
    state |= {f"discriminator.{name}": value for name, value in judge.items()}
    state |= {"mano.shapedirs": numbers(778, 3, 10), "mano.faces": np.ones((2, 3), np.int64)}
    return state | {"initialized": np.bool_([1])}


def leaf(tree: dict, path: str):
    for name in path.split("/"):
        tree = tree[int(name) if name.isdecimal() else name]
    return np.asarray(tree)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """HaMeR's checkpoint in Lightning's format, and its backbone in ViTPose's format."""
    folder = tmp_path_factory.mktemp("released")
    save(folder / "hamer.ckpt", {"epoch": 0, "state_dict": hamer(), "optimizer_states": [{"state": {}}]})
    save(folder / "vitpose.pth", {"state_dict": transformer() | layer("keypoint_head.final_layer", 17, 8), "meta": {}})
    return folder


def test_every_tensor_of_hamer_is_used_or_reported(files):
    found, state = interop.convert("hamer", files / "hamer.ckpt", overrides=HEADS), hamer()
    vit, head = found.config.model.vit, found.config.model.hamer
    assert (vit.width, vit.depth, vit.heads, vit.mlp_ratio, vit.patch) == (WIDTH, DEPTH, 4, 4, 16)
    assert (head.width, head.depth, head.heads, head.head_width, head.mlp) == (TOKEN, 2, 1, 64, 40)
    data = found.config.data
    assert (found.config.model.name, data.image_size, data.crop_rule, data.crop_scale) == ("hamer", 64, "hamer", 2)
    params = found.params
    for i in range(DEPTH):
        qkv = leaf(params, "backbone/encoder/blocks/attn/qkv/kernel")[i]
        np.testing.assert_array_equal(qkv, state[f"backbone.blocks.{i}.attn.qkv.weight"].T)
        scale = leaf(params, "backbone/encoder/blocks/norm2/scale")[i]
        np.testing.assert_array_equal(scale, state[f"backbone.blocks.{i}.norm2.weight"])
    positions = state["backbone.pos_embed"][0]
    np.testing.assert_array_equal(leaf(params, "backbone/positions"), positions[1:] + positions[0])
    patch = np.random.default_rng(0).normal(size=(16, 16, 3))  # the matrix product is equal to the convolution
    wanted = np.einsum("hwc,ochw->o", patch, state["backbone.patch_embed.proj.weight"])
    close(patch.reshape(-1) @ leaf(params, "backbone/patch_embed/proj/kernel"), wanted, 1e-5)
    out = leaf(params, "mano_head/transformer/layers/feed_forward/fc2/kernel")[1]
    np.testing.assert_array_equal(out, state["mano_head.transformer.transformer.layers.1.2.fn.net.3.weight"].T)
    np.testing.assert_array_equal(leaf(found.non_trainable, "mano_head/init_cam"), state["mano_head.init_cam"])
    numbers_used = sum(np.size(state[key]) for key in found.used)
    numbers_made = sum(array.size for array in jax.tree.leaves((found.params, found.non_trainable)))
    assert numbers_used - numbers_made == WIDTH  # the class token's embedding
    assert set(found.used) | set(found.unused) == set(state) | {"epoch", "optimizer_states"}
    assert not set(found.used) & set(found.unused) and "unknown" not in found.unused.values()
    unused = {"epoch", "optimizer_states", "mano", "discriminator", "initialized"}
    assert {key.split(".")[0] for key in found.unused} == unused


def test_the_discriminator_when_asked(files):
    overrides = [*HEADS, "model.hamer.discriminator=true"]
    found, state = interop.convert("hamer", files / "hamer.ckpt", overrides=overrides), hamer()
    judge = found.params["discriminator"]
    wanted = np.concatenate([state[f"discriminator.pose_out.{i}.weight"] for i in range(15)])
    np.testing.assert_array_equal(judge["pose_out"]["kernel"], wanted)
    wanted = np.concatenate([state[f"discriminator.pose_out.{i}.bias"] for i in range(15)])
    np.testing.assert_array_equal(judge["pose_out"]["bias"], wanted)
    np.testing.assert_array_equal(judge["D_conv1"]["kernel"], state["discriminator.D_conv1.weight"][:, :, 0, 0].T)


def test_the_command_makes_a_run_folder(files, tmp_path, call):
    out = tmp_path / "hamer"
    arguments = ["hamer", files / "hamer.ckpt", out, "--set", *HEADS, "model.dtype=bfloat16"]
    code, output, errors = call(convert.main, *arguments)
    assert (code, errors) == (0, "")
    lines = output.splitlines()
    assert lines[0] == f"{files / 'hamer.ckpt'} -> {out}:"
    assert lines[1].strip().startswith(f"hamer, {DEPTH} blocks, {WIDTH} wide with 4 heads, 0.1 M values")
    assert "no tensor is missing" in lines[2] and any("MANO's arrays" in line for line in lines)
    assert lines[-1].startswith("Without MANO: mano_pose, mano_shape and camera are HaMeR's; joints and mesh")
    report = (out / "conversion.txt").read_text()
    assert all(f"\n  {key} -> " in report or f"\n  {key}: " in report for key in hamer())
    assert "  backbone.last_norm.weight -> backbone/encoder/norm/scale\n" in report
    assert configs.load(out / "config.yaml").model.dtype == "bfloat16"

    tester, best = eval_loop.load_best(out)  # as `evaluate` and `predict` do
    assert best.step == 0 and not best.partial and best.meta["converted"]["kind"] == "hamer"
    assert tester.config == configs.load(out / "config.yaml")
    found = interop.convert("hamer", files / "hamer.ckpt", overrides=HEADS)
    jax.tree.map(np.testing.assert_array_equal, (best.params, best.rest), (found.params, found.non_trainable))

    code, _, errors = call(convert.main, "hamer", files / "hamer.ckpt", out, "--set", *HEADS)
    assert code == 2 and errors == f"error: {out}: contains checkpoints already; choose another folder\n"
    checkpoints = Checkpoints(out)
    with pytest.raises(CheckpointError, match=f"contains converted weights, not a run; .*training.init_from={out}"):
        checkpoints.restore_latest({})
    checkpoints.close()


def test_the_users_mano_is_in_the_config(files, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["hamer", files / "hamer.ckpt", "out", "--mano", "models/MANO_RIGHT.pkl", "--set", *HEADS]
    code, output, _ = call(convert.main, *arguments)
    assert code == 0 and "Without MANO" not in output
    assert configs.load("out/config.yaml").hand.mano_path == str(tmp_path / "models/MANO_RIGHT.pkl")


@pytest.mark.parametrize("file", ["hamer.ckpt", "vitpose.pth"])
def test_a_backbone_starts_a_training(files, tmp_path, call, file):
    out = tmp_path / "vitpose"
    code, output, errors = call(convert.main, "vitpose", files / file, out, "--set", *HEADS)
    assert (code, errors) == (0, "")
    assert output.splitlines()[-1] == f"This is only a backbone: start a training with training.init_from={out}"
    with pytest.raises(CheckpointError, match=f"{out}: contains only a part of a model; start a training from it with"):
        restore_best(out)
    part = restore_best(out, partial=True)
    wanted = interop.convert("hamer", files / "hamer.ckpt", overrides=HEADS).params["backbone"]
    assert part.partial and not part.rest
    jax.tree.map(np.testing.assert_array_equal, part.params, {"backbone": wanted})


@pytest.mark.parametrize("name", ["hamer", "wilor", "rgbd_fusion"])
def test_a_backbone_is_one_of_every_model(files, name):
    found = interop.convert("vitpose", files / "vitpose.pth", overrides=[*HEADS, f"model.name={name}"])
    params = Trainer(found.config, make_mesh(), 10).abstract_state["params"]
    assert pytree_checks.mismatch("params", found.params, params, partial=True) is None
    assert pytree_checks.parts(found.params, params).startswith("17 of ")


def test_a_run_takes_the_part_and_draws_the_rest(tiny, tmp_path):
    """A part of the dense network, in the form of a converted folder."""
    fresh = Trainer(tiny, make_mesh(), 10).init()["params"]
    stem = jax.tree.map(lambda array: jnp.full_like(array, 3), fresh["stem"])
    checkpoints = Checkpoints(tmp_path / "part", compress=False)
    meta = {"epoch": 0, "config": configs.to_dict(tiny), "converted": {"partial": True}}
    checkpoints.save(0, params={"stem": stem}, rest={}, optimizer={}, data={}, meta=meta, avg_metric=None)
    checkpoints.close()
    start = dataclasses.replace(tiny.training, init_from=str(tmp_path / "part"))
    run = loop.Run(dataclasses.replace(tiny, training=start), tmp_path / "run")
    begin = run.restore()
    run.close()
    assert begin.step is None and begin.note.startswith(f"training.init_from {tmp_path / 'part'}: 2 of ")
    assert "are loaded (stem/bias, stem/kernel); new: " in begin.note
    jax.tree.map(np.testing.assert_array_equal, begin.state["params"], fresh | {"stem": stem})
    wider = dataclasses.replace(tiny, training=start, model=dataclasses.replace(tiny.model, width=48))
    with pytest.raises(UserError, match="does not fit: params/stem/.*: saved .*, the model needs"):
        loop.Run(wider, tmp_path / "other").restore()


def test_the_golden_hamer(shared, tmp_path, call):
    state, data = golden(shared, "hamer_tiny.npz")
    save(tmp_path / "hamer.ckpt", {"state_dict": state})
    settings = [*HEADS, "model.hamer.heads=2", "model.hamer.head_width=16"]
    assert call(convert.main, "hamer", tmp_path / "hamer.ckpt", tmp_path / "out", "--set", *settings)[0] == 0
    tester, best = eval_loop.load_best(tmp_path / "out")
    predict = quick_jit(lambda params, rest, image: nnx.merge(tester.graphdef, params, rest).predict_params(image))
    outputs = predict(best.params, best.rest, data["in/img"].transpose(0, 2, 3, 1))
    for value, name in zip(outputs, ("pose6d", "betas", "cam")):
        close(value, data[f"out64/{name}"], 1e-5)


def test_the_golden_wilor(shared, tmp_path, call):
    state, data = golden(shared, "wilor_tiny.npz")
    image = golden(shared, "hamer_tiny.npz")[1]["in/img"].transpose(0, 2, 3, 1)
    save(tmp_path / "wilor.ckpt", {"state_dict": state})
    assert call(convert.main, "wilor", tmp_path / "wilor.ckpt", tmp_path / "out", "--set", *HEADS)[0] == 0
    tester, best = eval_loop.load_best(tmp_path / "out")

    @quick_jit
    def predict(params, rest, image, vertices, camera):
        model = nnx.merge(tester.graphdef, params, rest)
        *coarse, features = model.backbone(image)
        corrections = model.refine_net(features, vertices, camera)
        return coarse, [start + correction for start, correction in zip(coarse, corrections)]

    coarse, refined = predict(best.params, best.rest, image, data["in/verts"], data["in/cam_for_refine"])
    for value, name in zip(coarse, ("pose6d", "betas", "cam")):
        close(value, data[f"out/{name}"])
    for value, name in zip(refined[1:], ("betas", "cam")):
        close(value, data[f"out/refined_{name}"])
    report = (tmp_path / "out" / "conversion.txt").read_text()
    assert "refine_net.deconv.deconv.1.4.running_var -> refine_net/deconv/chains/1/1/norm/var" in report
    assert report.count("num_batches_tracked: a counter") == 3 and ": unknown" not in report


def test_weights_are_in_memory_once(files):
    """Converted arrays are passed to Orbax without a copy."""
    found = interop.convert("hamer", files / "hamer.ckpt", overrides=HEADS)
    for array in jax.tree.leaves((found.params, found.non_trainable)):
        assert jax.device_put(array, jax.devices("cpu")[0]).unsafe_buffer_pointer() == array.ctypes.data


def test_other_formats_of_the_same_weights(files, tmp_path):
    state = hamer()
    wanted = interop.convert("hamer", files / "hamer.ckpt", overrides=HEADS).params
    entries, content = {}, b""
    for name, array in state.items():
        kind = {"float32": "F32", "int64": "I64", "bool": "BOOL"}[array.dtype.name]
        places = [len(content), len(content) + array.nbytes]
        entries[name] = {"dtype": kind, "shape": array.shape, "data_offsets": places}
        content += array.tobytes()
    header = json.dumps(entries).encode()
    (tmp_path / "hamer.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + content)
    save(tmp_path / "parallel.pt", {f"module.{name}": value for name, value in state.items()})
    for file in ("hamer.safetensors", "parallel.pt"):
        found = interop.convert("hamer", tmp_path / file, overrides=HEADS).params
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
    halved = {name: array.astype(ml_dtypes.bfloat16) for name, array in state.items()}
    save(tmp_path / "half.pt", halved)
    found = interop.convert("hamer", tmp_path / "half.pt", overrides=HEADS).params["mano_head"]["decpose"]["kernel"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, halved["mano_head.decpose.weight"].T.astype(np.float32))


MISTAKES = {
    "a key is missing": (
        {"backbone.blocks.1.mlp.fc2.bias": None, "mano_head.deccam.bias": None},
        "not a complete checkpoint of hamer: backbone.blocks.1.mlp.fc2.bias, mano_head.deccam.bias missing",
    ),
    "a shape": (
        {"backbone.blocks.2.attn.qkv.weight": numbers(3 * WIDTH, WIDTH + 1)},
        r"attn.qkv.weight of shape \(48, 17\) does not fit the model's .*blocks/attn/qkv/kernel of shape \(16, 48\)",
    ),
    "axes": (
        {"mano_head.transformer.pos_embedding": numbers(TOKEN)},
        r"pos_embedding of shape \(24,\) does not fit the model's .*/pos_embedding of shape \(1, 1, 24\)",
    ),
    "axes of a tensor that determines sizes": (
        {"backbone.pos_embed": numbers(13, 16)},
        r"backbone.pos_embed has shape \(13, 16\), but hamer needs 3 axes",
    ),
    "another model": (
        {"backbone.pos_embed": None},
        "not a checkpoint of hamer: the tensor backbone.pos_embed is missing",
    ),
    "not finite": (
        {"mano_head.deccam.bias": np.float32([1, np.nan, 2])},
        "mano_head.deccam.bias has values that are not finite",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_tensors_that_do_not_fit_are_named(tmp_path, mistake):
    changes, message = MISTAKES[mistake]
    state = hamer() | changes
    save(tmp_path / "a.ckpt", {"state_dict": {key: value for key, value in state.items() if value is not None}})
    with pytest.raises(UserError, match=message) as error:
        interop.convert("hamer", tmp_path / "a.ckpt", overrides=HEADS)
    assert str(error.value).startswith(f"{tmp_path / 'a.ckpt'}: ") and "\n" not in str(error.value)


def test_unknown_sizes_must_be_given(files, tmp_path):
    with pytest.raises(UserError, match="unknown number of attention heads for width 16: set model.vit.heads=NUMBER"):
        interop.convert("hamer", files / "hamer.ckpt")
    for content in ([1, 2], {"state_dict": {}}, {"epoch": 3}):
        save(tmp_path / "a.pt", content)
        with pytest.raises(UserError, match="contains no weights"):
            interop.convert("hamer", tmp_path / "a.pt")


def test_model_config(files, tmp_path):
    """The decoder's heads, which the shapes of the weights do not determine."""
    path = tmp_path / "model_config.yaml"
    text = """
MODEL:
  IMAGE_SIZE: 256
  MANO_HEAD:
    TYPE: transformer_decoder
    TRANSFORMER_DECODER: {depth: 2, heads: 4, mlp_dim: 40, dim_head: 16, dropout: 0.0}
EXTRA: {FOCAL_LENGTH: 5000}
"""
    path.write_text(text)
    found = interop.convert("hamer", files / "hamer.ckpt", model_config=path, overrides=HEADS)
    assert (found.config.model.hamer.heads, found.config.model.hamer.head_width) == (4, 16)
    for changed, message in (
        (
            text.replace("dim_head: 16", "dim_head: 32"),
            r"to_kv.weight of shape \(128, 16\) does not fit .* \(16, 256\)",
        ),
        (text.replace("5000", "1000"), "EXTRA.FOCAL_LENGTH is 1000 for crops of 256 px; only 5000 for crops of 256 px"),
        ("MODEL: 3", "not a model_config.yaml of HaMeR or WiLoR"),
        ("a: [", "not a model_config.yaml of HaMeR or WiLoR"),
    ):
        path.write_text(changed)
        with pytest.raises(UserError, match=message):
            interop.convert("hamer", files / "hamer.ckpt", model_config=path, overrides=HEADS)
    with pytest.raises(UserError, match="cannot be read"):
        interop.convert("hamer", files / "hamer.ckpt", model_config=tmp_path / "none.yaml", overrides=HEADS)
