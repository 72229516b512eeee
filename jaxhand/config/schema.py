"""Every key of an experiment, with its default: frozen dataclasses."""

import dataclasses


def _choice(*choices: str) -> str:
    """A field that takes one of `choices`, by default the first."""
    return dataclasses.field(default=choices[0], metadata={"choices": choices})


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Ranges of the training augmentation; each is drawn anew for every sample."""

    rotation_deg: float = 0.0  # in-plane rotation, uniform in ± this
    scale: float = 0.0  # the crop's side times uniform(1 - this, 1 + this)
    shift: float = 0.0  # the crop's centre, uniform in ± this part of its side
    color: float = 0.2  # gain of every channel, brightness and contrast, uniform in ± this
    noise: float = 0.0  # standard deviation of pixel noise, 1.0 is the full range


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which hands are read and how they become crops."""

    train: str | dict[str, float] = "synthetic"  # or NAME:PATH, module:function:PATH, or several {NAME:PATH: weight}
    test: str = "synthetic"
    test_split: str = _choice("test", "val")  # "val" tests on a split of its own, for choosing recipes
    view: str = _choice("front", "all")  # of the synthetic data set: "front" (palm or back, ±35°) or "all" directions
    train_samples: int = 20480  # of the synthetic data set; a folder is read whole
    test_samples: int = 2000
    image_size: int = 64  # side of the square crop, px
    crop_scale: float = 1.4  # side of the crop over the longer side of the hand's box
    crop_rule: str = _choice(
        "square", "hamer"
    )  # "hamer": box, pixels and blur as HaMeR and WiLoR have them; crop_scale is then 2
    depth_dropout: float = 0.3  # share of training samples whose depth is hidden
    threads: int = 2  # that read and crop ahead of the training
    cache: str = ""  # folder of rendered sets; empty: the user's cache folder
    mocap: str = ""  # .npz of real `hand_pose` and `betas`, as HaMeR's freihand_mocap.npz, for its discriminator
    augment: AugmentConfig = AugmentConfig()


@dataclasses.dataclass(frozen=True)
class HandConfig:
    """The hand whose mesh the models give."""

    mano_path: str = ""  # MANO_RIGHT.pkl, or its folder, from https://mano.is.tue.mpg.de; empty: the built-in hand
    tips: str = _choice("smplx", "freihand", "ho3d", "manopth")  # whose fingertip vertices of MANO; DexYCB: manopth


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """A vision transformer."""

    size: str = _choice("", "S", "B", "L", "H")  # sets width, depth and heads
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    patch: int = 16  # px
    drop_path: float = 0.0  # of the last block, growing from 0 at the first


@dataclasses.dataclass(frozen=True)
class FusionConfig:
    """What `rgbd_fusion` adds to its vision transformer."""

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
    heads: int = 8
    head_width: int = 64
    mlp: int = 1024  # hidden channels
    discriminator: bool = False  # adversarial training of the pose
    init: str = ""  # mano_mean_params.npz; empty: a flat hand


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """What `fast_mesh` adds to the network of "dense"."""

    widths: tuple[int, ...] = (256, 128, 64)  # channels after each stage, of 21, 84, 336 tokens


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network: what `name` does not use is ignored."""

    name: str = "dense"  # a key of `jaxhand.models.MODELS`, or package.module:Class from outside the package
    options: dict = dataclasses.field(default_factory=dict)  # settings of a model from outside the package
    dtype: str = _choice("float32", "bfloat16")  # of the computation; parameters and predictions are float32
    remat: bool = False  # compute activations again in the backward pass: less memory, a third more time
    vit: ViTConfig = ViTConfig()
    fusion: FusionConfig = FusionConfig()
    hamer: HamerConfig = HamerConfig()
    mesh: MeshConfig = MeshConfig()
    width: int = 128  # channels of the coarse grid; this and all that follows is of "dense"
    fine_blocks: int = 1  # on cells of 4 px
    blocks: int = 4  # on cells of 8 px
    expansion: int = 1  # hidden channels of a block / its channels
    joint_width: int = 64  # channels per joint
    joint_blocks: int = 1  # in every refinement stage
    looks: int = 2  # number of refinement stages after the vote


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weight of every term of the training loss, of those that the model names; 0 leaves a term out."""

    reduction: str = _choice(
        "mean", "sum"
    )  # over the batch; "sum" as HaMeR: what that changes, configs/hamer.yaml says

    joints_3d: float = 1.0  # distance to the true joint, both relative to the wrist, in 100 mm
    joints_2d: float = 1.0  # distance in the crop, in half its side
    depth: float = 1.0  # error of a joint's depth relative to the hand's mean, in 100 mm
    distance: float = 0.3  # error of the hand's mean depth where a sensor measured it, in 100 mm
    size: float = 1.0  # error of the hand's distance as judged by its size, relative
    guesses: float = 0.5  # auxiliary loss: the three joint terms of every intermediate prediction
    vertices: float = 1.0  # distance to the true vertex, both relative to the wrist, in 100 mm

    # of rgbd_fusion: sums over the joints of a hand, and UTNet's names and weights
    w_2d: float = 0.01  # distance along x and y in parts of the crop's side
    w_3d_joint: float = 0.05  # along x, y and z relative to the wrist, in mm
    w_3d_vert: float = 0.0  # the same of the vertices
    w_prior: float = 0.001  # mean square of the shape
    w_aux: float = 0.001  # mean square error of the coarse hand's pose and shape

    # of hamer and wilor: sums over the joints of a hand, and HaMeR's names and weights
    keypoints_2d: float = 0.01  # along x and y in parts of the crop's side
    keypoints_3d: float = 0.05  # along x, y and z relative to the wrist, in m
    global_orient: float = 0.001  # square error of the rotation matrices
    hand_pose: float = 0.001
    betas: float = 0.0005
    adversarial: float = 0.0005  # how unreal the discriminator finds a hand
    discriminator: float = 0.0005  # how wrong the discriminator is


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer; `b1`, `b2` are Adam's, Muon's momentum is `momentum`."""

    name: str = _choice("adamw", "muon")  # "muon": Muon for matrices, Adam for the rest
    learning_rate: float = 3e-3  # at the top of the schedule
    weight_decay: float = 1e-4
    b1: float = 0.9
    b2: float = 0.99
    momentum: float = 0.95
    adam_rate: float = 0.5  # of muon: learning rate of what is no matrix over that of the matrices
    clip_norm: float = 1.0  # global gradient norm; 0 does not clip


@dataclasses.dataclass(frozen=True)
class SchedulerConfig:
    name: str = _choice("cosine", "constant")  # after the same warm-up
    warmup_steps: int = 100
    eta_min: float = 0.0  # learning rate at the end of the cosine


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    num_epochs: int = 10
    batch_size: int = 64  # over all devices and hosts
    epoch_samples: int = 0  # that an epoch draws; 0: as many as the training sets hold
    save_freq: int = 10  # every so many epochs a checkpoint is kept for good
    test_freq: int = 1  # accepted for old configs; every epoch is tested
    init_from: str = ""  # run folder whose best parameters are the start


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment."""

    seed: int = 0
    data: DataConfig = DataConfig()
    hand: HandConfig = HandConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    training: TrainingConfig = TrainingConfig()
