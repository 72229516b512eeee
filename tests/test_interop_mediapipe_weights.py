"""MediaPipe's networks in JAX equal LiteRT's; other files are named; ImageNet's batch normalisation is folded."""

import zipfile

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxhand.config import UserError
from jaxhand.data.images.encoded import read_image
from jaxhand.interop import mediapipe_weights, tflite
from jaxhand.interop.mediapipe_weights import HAND, MODULES, PALM
from jaxhand.models.efficientnet_lite import relu6
from tests.support import mediapipe_files
from tests.support.tflite_files import one_convolution, write
from tests.support.torch_files import save_legacy

PARAMETERS = {(HAND, "full"): 2715680, (HAND, "lite"): 1011712, (PALM, "full"): 1132536, (PALM, "lite"): 960088}


@pytest.fixture(scope="module")
def pictures(shared):
    """Four photographs and noise, as float images of a side in px."""
    paths = sorted((shared / "real" / "hand_photos" / "images").iterdir())[::100]
    images = [read_image(path) for path in paths]
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    return lambda side: np.float32([cv2.resize(image, (side, side)) for image in (*images, noise)]) / 255


@pytest.mark.parametrize("size", ["full", "lite"])
@pytest.mark.parametrize("kind", [HAND, PALM])
def test_networks_equal_litert(kind, size, pictures):
    folder = mediapipe_files.source()
    found = mediapipe_weights.convert_mediapipe(folder, [f"model.options.size={size}"])[kind]
    assert found.config.model.options == {"size": size} and not found.partial
    model, shapes = mediapipe_weights.abstract(found.config)
    assert jax.tree.map(jnp.shape, found.params) == jax.tree.map(jnp.shape, shapes)
    assert sum(leaf.size for leaf in jax.tree.leaves(found.params)) >= PARAMETERS[kind, size]  # shared zeros count anew
    litert, images = mediapipe_files.LiteRT(kind, size), pictures(mediapipe_files.SIDES[kind])
    truth = litert(images)
    graphdef, state = nnx.split(model)
    forward = jax.jit(lambda params, images: nnx.merge(graphdef, params).read(images))
    for rows in (slice(None), slice(1)):  # image by image, and a single one
        result = jax.device_get(forward(found.params, images[rows]))
        if kind == PALM:
            np.testing.assert_allclose(result[0], truth[0][rows], atol=1e-3)  # px
            np.testing.assert_allclose(result[1], truth[1][rows, :, 0], atol=1e-3)
        else:
            landmarks, world = (array[rows].reshape(-1, 21, 3) for array in (truth[0], truth[3]))
            np.testing.assert_allclose(result.pixels + 0.5, landmarks[..., :2], atol=1e-3)
            np.testing.assert_allclose(result.depth, landmarks[..., 2], atol=1e-3)
            np.testing.assert_allclose(result.world / 1000, world, atol=1e-5)  # m
            np.testing.assert_allclose(result.presence, truth[1][rows, 0], atol=1e-5)
            np.testing.assert_allclose(result.right, truth[2][rows, 0], atol=1e-5)


def test_sources_hold_the_same_networks(tmp_path):
    """A wheel, a bundle and a file are read as the folder is."""
    folder = mediapipe_files.source()
    files = {kind: folder / "modules" / MODULES[kind].format("lite") for kind in MODULES}
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        for kind, file in files.items():
            wheel.write(file, f"mediapipe/modules/{MODULES[kind].format('lite')}")
    with zipfile.ZipFile(tmp_path / "a.task", "w") as bundle:
        bundle.write(files[PALM], "hand_detector.tflite")
        bundle.write(files[HAND], "hand_landmarks_detector.tflite")
    lite = ["model.options.size=lite"]
    expected = mediapipe_weights.convert_mediapipe(folder, lite)
    for source, overrides in (("a.whl", lite), ("a.task", [])):  # a bundle has one size, whatever is asked for
        found = mediapipe_weights.convert_mediapipe(tmp_path / source, overrides)
        assert found.keys() == {HAND, PALM}
        for kind, network in found.items():
            jax.tree.map(np.testing.assert_array_equal, network.params, expected[kind].params)
            assert network.config == expected[kind].config
    assert mediapipe_weights.convert_mediapipe(files[PALM]).keys() == {PALM}
    with pytest.raises(
        UserError, match="a.whl: has no mediapipe/modules/hand_landmark/hand_landmark_full.tflite .later"
    ):
        mediapipe_weights.convert_mediapipe(tmp_path / "a.whl")


def test_other_files_are_named(tmp_path):
    with pytest.raises(
        UserError, match="has no mediapipe/modules/hand_landmark/hand_landmark_full.tflite; .*: pip download"
    ):
        mediapipe_weights.convert_mediapipe(tmp_path)
    other = write(tmp_path / "other.tflite", one_convolution(np.ones((5, 3, 3, 2)), np.ones(5)))
    with pytest.raises(
        UserError, match=r"other.tflite: not MediaPipe's hand landmark network .*: its outputs are \[\(1, 4, 4, 5\)\]"
    ):
        mediapipe_weights.convert_mediapipe(other)
    with pytest.raises(UserError, match="model.options.size must be one of full, lite"):
        mediapipe_weights.convert_mediapipe(other, ["model.options.size=huge"])


def test_a_layer_of_another_shape_is_named():
    where = mediapipe_files.source() / "modules" / MODULES[PALM].format("lite")
    network = tflite.read(where)
    found = mediapipe_weights.convert_mediapipe(where)[PALM]

    def converted(number: int, **changes):
        operations = list(network.operations)
        operations[number] = operations[number]._replace(**changes)
        return mediapipe_weights._converted(found.config, network._replace(operations=operations), "file")

    first = network.operations[0]
    kernel, bias = first.constants
    with pytest.raises(
        UserError,
        match=r"file: the kernel of operation 0 CONV_2D has shape \(5, 5, 3, 31\), but stem needs \(5, 5, 3, 32\)",
    ):
        converted(0, constants=[kernel[:31], bias])
    with pytest.raises(
        UserError, match="file: operation 0 CONV_2D has values that are not finite; download the file again"
    ):
        converted(0, constants=[kernel * np.float16(np.nan), bias])
    with pytest.raises(UserError, match="file: operation 0 CONV_2D has stride 1, but stem needs 2"):
        converted(0, options=first.options | {"stride_h": 1})
    with pytest.raises(UserError, match=r"file: has \d+ layers with parameters, but palm_detector has \d+"):
        mediapipe_weights._converted(found.config, network._replace(operations=network.operations[1:]), "file")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A file as of EfficientNet-Lite0 with random numbers, and these numbers by name."""
    rng, arrays = np.random.default_rng(0), {}

    def layer(convolution: str, norm: str, *shape: int):
        fan_in = np.prod(shape[1:])
        arrays[f"{convolution}.weight"] = rng.normal(size=shape).astype(np.float32) / np.float32(np.sqrt(fan_in))
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            arrays[f"{norm}.{leaf}"] = rng.uniform(0.5, 1.5, shape[0]).astype(np.float32)
        arrays[f"{norm}.num_batches_tracked"] = np.int64(7)

    layer("_conv_stem", "_bn0", 32, 3, 3, 3)
    inputs, number = 32, 0
    widths = ((1, 3, 16), (2, 3, 24), (2, 5, 40), (3, 3, 80), (3, 5, 112), (4, 5, 192), (1, 3, 320))
    for stage, (blocks, kernel, width) in enumerate(widths):
        for _ in range(blocks):
            name, hidden = f"_blocks.{number}", inputs * (6 if stage else 1)
            if stage:
                layer(f"{name}._expand_conv", f"{name}._bn0", hidden, inputs, 1, 1)
            layer(f"{name}._depthwise_conv", f"{name}._bn1", hidden, 1, kernel, kernel)
            layer(f"{name}._project_conv", f"{name}._bn2", width, hidden, 1, 1)
            inputs, number = width, number + 1
    layer("_conv_head", "_bn1", 1280, 320, 1, 1)
    arrays |= {"_fc.weight": np.zeros((1000, 1280), np.float32), "_fc.bias": np.zeros(1000, np.float32)}
    path = tmp_path_factory.mktemp("imagenet") / "efficientnet-lite0-0.pth"
    save_legacy(path, arrays)
    return path, arrays


def test_imagenets_backbone_with_its_norms_folded(imagenet):
    """Every number is used, and stem and first block compute what they do with their batch normalisation."""
    path, arrays = imagenet
    found = mediapipe_weights.convert_imagenet(path.parent)
    model, shapes = mediapipe_weights.abstract(found.config)
    assert found.partial and found.params.keys() == {"backbone"}
    assert jax.tree.map(jnp.shape, found.params) == jax.tree.map(jnp.shape, {"backbone": shapes["backbone"]})
    assert set(found.unused) == {key for key in arrays if "_fc" in key or "tracked" in key}
    assert set(found.used) | set(found.unused) == set(arrays)

    def normed(x, convolution, norm, **options):
        kernel = arrays[f"{convolution}.weight"].transpose(2, 3, 1, 0)
        form = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), **options}
        x = jax.lax.conv_general_dilated(x, kernel, padding="SAME", **form)
        scale, bias, mean, var = (
            arrays[f"{norm}.{leaf}"] for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(var + 1e-3) * scale + bias

    image = np.random.default_rng(1).random((1, 32, 32, 3), np.float32)
    x = relu6(normed((image - 0.5) / 0.5, "_conv_stem", "_bn0", window_strides=(2, 2)))
    x = relu6(normed(x, "_blocks.0._depthwise_conv", "_blocks.0._bn1", window_strides=(1, 1), feature_group_count=32))
    x = normed(x, "_blocks.0._project_conv", "_blocks.0._bn2", window_strides=(1, 1))
    graphdef, state = nnx.split(model.backbone)
    nnx.replace_by_pure_dict(state, found.params["backbone"])
    backbone = nnx.merge(graphdef, state)
    ours = backbone.stages[0][0](relu6(backbone.stem((image - 0.5) / 0.5)))
    np.testing.assert_allclose(ours, x, rtol=1e-4, atol=1e-4)
    features = jax.eval_shape(backbone, jnp.zeros((2, 224, 224, 3)))
    assert [feature.shape for feature in features] == [(2, 14, 14, 112), (2, 7, 7, 192), (2, 1280)]


def test_a_missing_tensor_of_imagenet_is_named(imagenet, tmp_path):
    _, arrays = imagenet
    save_legacy(
        tmp_path / "a.pth", {key: array for key, array in arrays.items() if not key.startswith("_blocks.3._bn1")}
    )
    with pytest.raises(
        UserError, match=r"a.pth: not EfficientNet-Lite0 of ImageNet: _blocks.3._bn1.weight, .* missing"
    ):
        mediapipe_weights.convert_imagenet(tmp_path / "a.pth")
