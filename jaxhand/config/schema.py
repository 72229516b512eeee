"""Every key of an experiment with its default, as frozen dataclasses.

The ranges of numbers are in `jaxhand.config.loading`.
"""

import dataclasses


def _choice(*choices: str) -> str:
    """A field that takes one of `choices`, by default the first."""
    return dataclasses.field(default=choices[0], metadata={"choices": choices})


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes of the training images: ranges of uniform draws, new for every sample. 0 turns a change off."""

    rotation_deg: float = 0.0  # rotation in the image plane, degrees, within ± this
    scale: float = 0.0  # factor on the side of the crop, within 1 ± this; 0 to below 1
    shift: float = 0.0  # shift of the crop's centre in x and y, within ± this, as a fraction of its side
    color: float = 0.2  # each channel's gain and the contrast within 1 ± this, brightness within ± this; 0 to below 1
    noise: float = 0.0  # standard deviation of Gaussian pixel noise, where 1.0 is the full range of a pixel


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data sets, and how their hands are cropped."""

    train: str | dict[str, float] = "synthetic"  # NAME:PATH or module:function:PATH; or a mix, {SET: weight}
    test: str = "synthetic"  # NAME:PATH or module:function:PATH
    # Split that every epoch is tested on. val: held out of the training set, to choose settings without the test set.
    test_split: str = _choice("test", "val")
    # Viewing directions of the synthetic set. front: palm or back of the hand, within about 35 degrees.
    view: str = _choice("front", "all")
    train_samples: int = 20480  # training hands of the synthetic set; other sets are used in full
    test_samples: int = 2000  # test hands of the synthetic set; other sets are used in full
    image_size: int = 64  # side of the square crop that the model gets, px
    crop_scale: float = 1.4  # side of the crop / longer side of the hand's box; above 0
    # How a box becomes a crop. hamer: as HaMeR and WiLoR do (box shape, pixel centres, blur); their crop_scale is 2.
    # mediapipe: around the labelled joints, rotated so that the hand points up, left hands not mirrored.
    crop_rule: str = _choice("square", "hamer", "mediapipe")
    depth_dropout: float = 0.3  # fraction of the training samples whose depth image is hidden, 0 to 1
    threads: int = 2  # threads that read and crop images while the model trains; at least 1
    cache: str = ""  # folder for rendered synthetic sets; empty: the user's cache folder
    mocap: str = ""  # .npz with hand_pose (N, 48) and betas (N, 10): real hands for HaMeR's discriminator; empty: none
    augment: AugmentConfig = AugmentConfig()


@dataclasses.dataclass(frozen=True)
class HandConfig:
    """The hand model whose mesh the networks predict."""

    mano_path: str = ""  # MANO_RIGHT.pkl or its folder, from https://mano.is.tue.mpg.de; empty: the built-in hand
    # Code base or data set that defines which MANO vertices are the fingertips. DexYCB follows manopth.
    tips: str = _choice("smplx", "freihand", "ho3d", "manopth")


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """A vision transformer."""

    size: str = _choice("", "S", "B", "L", "H")  # sets width, depth and heads; empty: the next three keys set them
    width: int = 384  # channels of a token
    depth: int = 12  # blocks
    heads: int = 6  # attention heads; they divide width
    mlp_ratio: float = 4.0  # hidden channels of the MLP / width
    patch: int = 16  # px
    drop_path: float = 0.0  # rate at the last block; it grows from 0 at the first


@dataclasses.dataclass(frozen=True)
class FusionConfig:
    """Settings of `rgbd_fusion`, except those of its vision transformer."""

    upsampler: int = 640  # channels of the first upsampled map
    scales: int = 3  # number of maps, each with twice the resolution of the one before
    graph: tuple[int, ...] = (512, 512, 256, 256)  # channels of the vertices: first layer, then every graph convolution
    depth: bool = True  # False ignores depth
    looks: int = 1  # number of refinement stages after the coarse hand
    refine: bool = True  # False stops at the coarse hand


@dataclasses.dataclass(frozen=True)
class HamerConfig:
    """The heads of `hamer` and `wilor`."""

    width: int = 1024  # channels of the decoder's query token
    depth: int = 6  # layers
    heads: int = 8  # attention heads
    head_width: int = 64  # channels of an attention head
    mlp: int = 1024  # hidden channels of the MLP
    discriminator: bool = False  # adversarial training of the pose
    init: str = ""  # mano_mean_params.npz; empty: a flat hand


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Settings of the mesh head of `fast_mesh`, which comes after the network "dense"."""

    widths: tuple[int, ...] = (256, 128, 64)  # channels after each stage, of 21, 84, 336 tokens


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network. Keys that the model `name` does not use are ignored."""

    name: str = "dense"  # a key of `jaxhand.models.MODELS`, or package.module:Class from outside the package
    options: dict = dataclasses.field(default_factory=dict)  # settings of a model from outside the package
    dtype: str = _choice("float32", "bfloat16")  # for the computation; parameters and predictions are float32
    remat: bool = False  # compute activations again in the backward pass: less memory, a third more time
    vit: ViTConfig = ViTConfig()
    fusion: FusionConfig = FusionConfig()
    hamer: HamerConfig = HamerConfig()
    mesh: MeshConfig = MeshConfig()
    width: int = 128  # channels of the coarse grid; this key and all below are for "dense"
    fine_blocks: int = 1  # on cells of 4 px
    blocks: int = 4  # on cells of 8 px
    expansion: int = 1  # hidden channels of a block / its channels
    joint_width: int = 64  # channels per joint
    joint_blocks: int = 1  # in every refinement stage
    looks: int = 2  # number of refinement stages after the vote


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms. A model uses the terms that it names; a term with weight 0 is only logged."""

    # How the loss is reduced over the batch. sum: as HaMeR; configs/hamer.yaml explains what that changes.
    reduction: str = _choice("mean", "sum")
    joints_3d: float = 1.0  # distance to the true joint, both relative to the wrist, in 100 mm
    joints_2d: float = 1.0  # distance in the crop, in half its side
    camera: float = 1.0  # distance to the true joint in the camera's frame, in 100 mm
    depth: float = 1.0  # error of a joint's depth relative to the hand's mean, in 100 mm
    distance: float = 0.3  # error of the hand's mean depth where a sensor measured it, in 100 mm
    size: float = 1.0  # relative error of the hand's distance that is estimated from its size in the image
    guesses: float = 0.5  # auxiliary loss: joints_3d, joints_2d and depth of every intermediate prediction
    vertices: float = 1.0  # distance to the true vertex, both relative to the wrist, in 100 mm

    # for rgbd_fusion: sums over the joints of a hand, with UTNet's names and weights
    w_2d: float = 0.01  # distance along x and y in parts of the crop's side
    w_3d_joint: float = 0.05  # along x, y and z relative to the wrist, in mm
    w_3d_vert: float = 0.0  # the same for the vertices
    w_prior: float = 0.001  # mean square of the shape
    w_aux: float = 0.001  # mean square error of the coarse hand's pose and shape

    # for hamer and wilor: sums over the joints of a hand, with HaMeR's names and weights
    keypoints_2d: float = 0.01  # along x and y in parts of the crop's side
    keypoints_3d: float = 0.05  # along x, y and z relative to the wrist, in m
    global_orient: float = 0.001  # square error of the rotation matrices
    hand_pose: float = 0.001  # the same for the 15 finger rotations
    betas: float = 0.0005  # square error of the shape parameters
    adversarial: float = 0.0005  # squared error of the discriminator's output for predicted hands; target: 1
    discriminator: float = 0.0005  # squared error of its outputs; target: 1 for real, 0 for predicted hands

    extra: dict[str, float] = dataclasses.field(default_factory=dict)  # {MODULE:FUNCTION: weight}, terms of your own


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer. `b1` and `b2` belong to Adam, `momentum` and `adam_rate` to Muon."""

    name: str = _choice("adamw", "muon")  # muon: Muon for matrices, Adam for all other parameters
    learning_rate: float = 3e-3  # highest learning rate, reached after the warm-up; above 0
    weight_decay: float = 1e-4  # decoupled weight decay of matrices; biases and scales have none
    b1: float = 0.9  # Adam's decay rate of the mean gradient, 0 to below 1
    b2: float = 0.99  # Adam's decay rate of the mean squared gradient, 0 to below 1
    momentum: float = 0.95  # Muon's momentum, 0 to below 1
    adam_rate: float = 0.5  # with muon: learning rate of Adam / learning rate of Muon
    clip_norm: float = 1.0  # gradients with a larger global norm are scaled down to it; 0: never
    # {pattern: factor} on the learning rate of the parameters whose path matches, such as {"backbone/*": 0.1}; the last
    # pattern that matches counts. 0 freezes: no update and no weight decay.
    rates: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SchedulerConfig:
    """The learning rate over the steps of a run: a linear warm-up from 0, then a cosine or a constant."""

    name: str = _choice("cosine", "constant")  # learning rate after the warm-up
    warmup_steps: int = 100  # steps of the warm-up; 0: none
    eta_min: float = 0.0  # learning rate at the end of the cosine


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long and how a run trains."""

    num_epochs: int = 10  # epochs; each one ends with an evaluation
    batch_size: int = 64  # hands per step, summed over all devices and hosts
    epoch_samples: int = 0  # training hands per epoch; 0: as many as the training sets have
    save_freq: int = 10  # epochs between checkpoints that are kept for good, next to the best and the latest two
    test_freq: int = 1  # ignored (accepted for old configs): every epoch is tested
    init_from: str = ""  # run folder whose best parameters training starts from; empty: random parameters
    # Share w of the initial parameters in the tested and saved parameters, w * initial + (1 - w) * trained; at least 0
    # and below 1. Training itself continues from the trained parameters.
    average_with_init: float = 0.0
    metrics: tuple[str, ...] = ()  # further metrics of every epoch: cs_mpjpe, pa_auc, or your own as MODULE:NAME


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment."""

    seed: int = 0  # of all random numbers: initial parameters, order of the samples, augmentation, synthetic hands
    data: DataConfig = DataConfig()
    hand: HandConfig = HandConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    training: TrainingConfig = TrainingConfig()
