"""HaMeR: a vision transformer looks at the crop, one token reads what it saw, and its numbers pose a hand.

Pavlakos et al., "Reconstructing Hands in 3D with Transformers" (2024). Attributes are named as in its checkpoint.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxhand.config import Config, ConfigError, UserError
from jaxhand.hand.rotations import axis_angle_to_matrix, rotation_6d_to_matrix
from jaxhand.hand.skinned import SkinnedHand
from jaxhand.models import vit
from jaxhand.models.decoder import Decoder
from jaxhand.models.discriminator import Discriminator, judgements
from jaxhand.models.mano_head import place

CAMERA_PX = 5000.0  # focal length of the camera that HaMeR imagines, px of a crop of 256 px
FOCAL = CAMERA_PX / 256  # over the side of the crop
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours in 0..1
PADDING = 2  # px of zeros around what the transformer sees
JOINTS = 16  # of MANO
CROP_MM = 280.0  # width of a crop at the hand, before anything is learned
LOSS_TERMS = ("keypoints_2d", "keypoints_3d", "global_orient", "hand_pose", "betas")
ADVERSARIAL_TERMS = ("adversarial", "discriminator")


class Constant(nnx.Variable):
    """A part of a checkpoint that is not trained."""


class Hamer(nnx.Module):
    """Colour crop → pose, shape and camera of a hand.

    Args:
        config: `model.vit`, `model.hamer`, `model.dtype` of the products, `model.remat`. `data.image_size` must be a
            multiple of 4 patches: the middle three quarters of the width are seen.
        hand: whose mesh it is.
        rngs: draws the parameters.
    """

    def __init__(self, config: Config, hand: SkinnedHand, rngs: nnx.Rngs):
        self.hand = hand
        self._build(config, rngs)
        self.discriminator = Discriminator(rngs) if config.model.hamer.discriminator else None
        self.loss_terms = LOSS_TERMS + (ADVERSARIAL_TERMS if self.discriminator else ())

    def _build(self, config: Config, rngs: nnx.Rngs) -> None:
        self.backbone = vit.ViT(**vit_arguments(config), rngs=rngs)
        self.mano_head = ManoHead(config, self.hand, rngs)

    def __call__(self, batch: dict, key: jax.Array | None = None) -> dict:
        """Predict a hand.

        Args:
            batch: `image` (B,S,S,3) in 0..1 and `K` (B,3,3) of the crop; with a key and a discriminator also what
                `real_hands` takes.
            key: draws the drop-path; None is test mode.

        Returns:
            What `place` gives; with a key and a discriminator also what the adversarial terms of the loss need.
        """
        pose, shape, camera = self.numbers(visible(batch["image"]), key)
        rotations = rotation_6d_to_matrix(pose.reshape(-1, JOINTS, 6))
        predictions = place(self.hand, rotations, shape, camera, batch, focal=FOCAL)
        if self.discriminator is not None and key is not None:
            predictions |= judgements(self.discriminator, rotations, shape, *real_hands(batch))
        return predictions

    def numbers(self, image, key: jax.Array | None = None):
        """What is `visible` of an image → six numbers a joint (B, 96), shape (B, 10), camera (B, 3) s, tx, ty."""
        return self.mano_head(self.backbone(image, key))


class ManoHead(nnx.Module):
    """A token reads the image's tokens; what it says is added to a mean hand.

    The readout and the sum are float32 whatever `model.dtype`: bfloat16 would move fingertips by tenths of millimetres,
    and of HaMeR's mean hand the turn of the wrist hangs on a number of 1.5e-7.
    """

    def __init__(self, config: Config, hand: SkinnedHand, rngs: nnx.Rngs):
        head = config.model.hamer
        self.transformer = Decoder(head, vit.sized(config.model.vit).width, config.model.dtype, rngs)
        self.decpose, self.decshape, self.deccam = (readout(head.width, numbers, rngs) for numbers in (96, 10, 3))
        self.init_hand_pose, self.init_betas, self.init_cam = mean_hand(head.init, hand)

    def __call__(self, context):
        """Tokens (B, T, E) → six numbers a joint (B, 96), shape (B, 10), camera (B, 3)."""
        token = self.transformer(context)
        return (
            self.init_hand_pose[...] + self.decpose(token),
            self.init_betas[...] + self.decshape(token),
            self.init_cam[...] + self.deccam(token),
        )


def vit_arguments(config: Config) -> dict:
    """The arguments of HaMeR's `ViT`.

    Raises:
        ConfigError: three quarters of the crop's side are not a whole number of patches.
    """
    size, patch = config.data.image_size, config.model.vit.patch
    if size % (4 * patch) or size % 8:
        raise ConfigError(
            f"data.image_size must be a multiple of {np.lcm(4 * patch, 8)} for model {config.model.name!r} and "
            f"model.vit.patch {patch}, got {size}"
        )
    seen = (size, size * 3 // 4)
    settings = {"dtype": config.model.dtype, "remat": config.model.remat}
    return {"config": config.model.vit, "image_size": seen, "padding": PADDING, "eps": 1e-6} | settings


def visible(image):
    """What the transformer sees of images (B, S, S, 3) in 0..1: the middle of their width, (B, S, 3S/4, 3), normed."""
    edge = image.shape[2] // 8
    return (image[:, :, edge:-edge] - jnp.float32(MEAN)) / jnp.float32(STD)


def readout(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    """A float32 layer that says little before it has learned."""
    spread = jax.nn.initializers.variance_scaling(1e-4, "fan_avg", "uniform")
    return nnx.Linear(inputs, outputs, kernel_init=spread, precision="highest", rngs=rngs)


def mean_hand(path: str, hand: SkinnedHand) -> tuple[Constant, Constant, Constant]:
    """What the heads add to: six numbers a joint (1, 96), shape (1, 10), camera (1, 3) s, tx, ty.

    Args:
        path: HaMeR's mano_mean_params.npz; empty for a flat hand in the middle of the crop, its palm to the camera.
        hand: which one.

    Raises:
        UserError: the file cannot be read, or holds other numbers.
    """
    if not path:
        joints = np.tile(np.float32([1, 0, 0, 0, 1, 0]), (JOINTS, 1))
        joints[0] = 1, 0, 0, 0, 0, 1  # the back of the hand turns away from the camera
        vertices = hand.template[: hand.num_vertices] / 1000  # m, fingers along x
        middle = (vertices.min(0) + vertices.max(0)) / 2
        wrist = hand.template[-JOINTS] / 1000
        middle = wrist + [1, -1, 1] * (middle - wrist)[[0, 2, 1]]
        found = {"pose": joints, "shape": np.zeros(10), "cam": [2000 / CROP_MM, *-middle[:2]]}
    else:
        try:
            with np.load(path) as file:
                found = {name: np.asarray(file[name], np.float32) for name in ("pose", "shape", "cam")}
        except KeyError as error:
            raise UserError(f"model.hamer.init {path}: {error.args[0]}; expected pose, shape and cam") from error
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"model.hamer.init {path} is not a readable mano_mean_params.npz: {error}") from error
    numbers = {name: np.float32(value).reshape(1, -1) for name, value in found.items()}
    for name, size in (("pose", 96), ("shape", 10), ("cam", 3)):
        if numbers[name].size != size or not np.isfinite(numbers[name]).all():
            raise UserError(f"model.hamer.init {path}: {name} should be {size} finite numbers")
    return tuple(Constant(jnp.asarray(numbers[name])) for name in ("pose", "shape", "cam"))


def real_hands(batch: dict):
    """Real hands to show the discriminator: those of `data.mocap` as HaMeR does, else the labelled ones of the batch.

    Args:
        batch: `mocap_pose` (B,R,48), axis-angles whose first is of the whole hand, and `mocap_shape` (B,R,10); or
            `mano_pose` (B,48), `mano_shape` (B,10) and `has_pose` (B,).

    Returns:
        Rotations (B,R,15,3,3) of the digits, shapes (B,R,10), and (B,R) 0 where there is no hand.
    """
    B = len(batch["image"])
    pose, shape, real = batch["mano_pose"], batch["mano_shape"], batch["has_pose"]
    if "mocap_pose" in batch:
        pose, shape, real = batch["mocap_pose"], batch["mocap_shape"], jnp.ones(batch["mocap_pose"].shape[:-1])
    return axis_angle_to_matrix(pose.reshape(B, -1, JOINTS, 3)[:, :, 1:]), shape.reshape(B, -1, 10), real.reshape(B, -1)
