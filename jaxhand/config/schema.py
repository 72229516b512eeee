"""Every key of an experiment with its default and its range, as frozen dataclasses.

A number without a range must be finite and at least 0.
"""

import dataclasses
import math
import typing

from jaxhand.config import ranges


def _choice(*choices: str) -> str:
    """A field whose value must be one of `choices`; the default is the first."""
    return dataclasses.field(default=choices[0], metadata={"choices": choices})


def _number(default: typing.Any, **limits: float) -> typing.Any:
    """A field whose value must be in the `ranges.Range` of these limits."""
    return dataclasses.field(default=default, metadata={"range": ranges.Range(**limits)})


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes of the training images. Each sample gets new values from uniform distributions. 0: no change."""

    rotation_deg: float = _number(0.0, most=180)  # rotation in the image plane: within ± this value, degrees
    scale: float = _number(0.0, below=1)  # factor for the crop's side: within 1 ± this value; 0 to below 1
    # shift of the crop's centre in x and y: within ± this fraction of the crop's side
    shift: float = _number(0.0, most=1)
    # fraction of the hands that are mirrored, 0 to 1; only for a crop_rule that keeps left hands
    mirror: float = _number(0.0, most=1)
    # Factors for each colour channel and for the contrast: within 1 ± this value. Brightness: within ± this value.
    color: float = _number(0.2, below=1)  # 0 to below 1
    # standard deviation of Gaussian pixel noise; 1.0 is the full range of pixel values
    noise: float = _number(0.0, most=1)


@dataclasses.dataclass(frozen=True)
class PhotoConfig:
    """The data set "synthetic-photo": rendered hands that look like photographs."""

    # Parts that are switched off: poses, views, objects, second_hand, occluders, backgrounds, lighting, skin, clothing,
    # camera
    without: tuple[str, ...] = ()
    backgrounds: str = ""  # folder of photographs without hands, used as backgrounds; empty: drawn backgrounds


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The data sets, and how their hands are cropped."""

    # synthetic, synthetic-photo, NAME:PATH or module:function:PATH; or a mixture, {SET: weight}
    train: str | dict[str, float] = "synthetic"
    test: str = "synthetic"  # as `train`, but no mixture
    # Split that is evaluated after every epoch. val: samples of the training set that are not used for training.
    test_split: str = _choice("test", "val")
    # Viewing directions of the synthetic set. front: on the palm or the back of the hand, within about 35 degrees.
    view: str = _choice("front", "all")
    # number of training hands in a synthetic set; other sets are used in full
    train_samples: int = _number(20480, least=1, most=2**30)
    # number of test hands in a synthetic set; other sets are used in full
    test_samples: int = _number(2000, least=1, most=2**30)
    image_size: int = _number(64, least=1, most=4096)  # side of the square crop (the input of the model), px
    crop_scale: float = _number(1.4, above=0, most=10)  # side of the crop / longer side of the hand's box; above 0
    # Rule for the crop of a box. hamer: as HaMeR and WiLoR (box shape, pixel centres, blur); they use crop_scale 2.
    # mediapipe: around the labelled joints, rotated so that the hand points up, left hands not mirrored.
    crop_rule: str = _choice("square", "hamer", "mediapipe")
    depth_dropout: float = _number(0.3, most=1)  # fraction of the training samples without their depth image, 0 to 1
    # number of threads that read and crop images; at least 1
    threads: int = _number(2, least=1, most=1024)
    # number of processes that read and crop images, instead of threads (only on Linux); 0: threads
    workers: int = _number(0, most=1024)
    strict: bool = False  # True: doubtful labels are an error before the first step; False: they are only printed
    cache: str = ""  # folder for rendered synthetic sets; empty: the user's cache folder
    mocap: str = ""  # .npz with hand_pose (N, 48) and betas (N, 10): real hands for HaMeR's discriminator; empty: none
    augment: AugmentConfig = AugmentConfig()
    photo: PhotoConfig = PhotoConfig()


@dataclasses.dataclass(frozen=True)
class HandConfig:
    """The hand model whose mesh the networks predict."""

    mano_path: str = ""  # MANO_RIGHT.pkl or its folder, from https://mano.is.tue.mpg.de; empty: the built-in hand
    # Code base or data set whose MANO vertices are used as fingertips. DexYCB uses those of manopth.
    tips: str = _choice("smplx", "freihand", "ho3d", "manopth")


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Settings of a vision transformer."""

    size: str = _choice("", "S", "B", "L", "H")  # sets width, depth and heads; empty: the next three keys set them
    width: int = _number(384, least=1)  # channels of a token
    depth: int = _number(12, least=1)  # number of blocks
    heads: int = _number(6, least=1)  # number of attention heads; width must be a multiple of this number
    mlp_ratio: float = 4.0  # hidden channels of the MLP / width
    patch: int = _number(16, least=1)  # side of a square patch, px
    # stochastic depth: drop rate of the last block; the rate grows linearly from 0 at the first
    drop_path: float = _number(0.0, below=1)


@dataclasses.dataclass(frozen=True)
class FusionConfig:
    """Settings of `rgbd_fusion`, except those of its vision transformer."""

    upsampler: int = _number(640, least=1)  # channels of the first upsampled map
    scales: int = _number(3, least=1)  # number of feature maps; each has twice the resolution of the previous one
    graph: tuple[int, ...] = (512, 512, 256, 256)  # channels per vertex: first layer, then each graph convolution
    depth: bool = True  # False: depth images are not used
    looks: int = _number(1, least=1)  # number of refinement stages after the coarse hand
    refine: bool = True  # False: the coarse hand is the result


@dataclasses.dataclass(frozen=True)
class HamerConfig:
    """Settings of the heads of `hamer` and `wilor`."""

    width: int = 1024  # channels of the decoder's query token
    depth: int = 6  # number of decoder layers
    heads: int = 8  # number of attention heads
    head_width: int = 64  # channels of an attention head
    mlp: int = 1024  # hidden channels of the MLP
    discriminator: bool = False  # True: adversarial training of the pose
    init: str = ""  # path of mano_mean_params.npz (initial hand); empty: a flat hand


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Settings of the mesh head of `fast_mesh`. The head is added to the network "dense"."""

    widths: tuple[int, ...] = (256, 128, 64)  # channels per token after each stage (21, 84 and 336 tokens)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network. Keys that the model `name` does not use are ignored."""

    name: str = "dense"  # a key of `jaxhand.models.MODELS`, or package.module:Class from outside the package
    options: dict = dataclasses.field(default_factory=dict)  # settings of a model from outside the package
    dtype: str = _choice("float32", "bfloat16")  # dtype of computations; parameters and predictions are float32
    remat: bool = False  # rematerialisation in the backward pass: less memory, one third more time
    vit: ViTConfig = ViTConfig()
    fusion: FusionConfig = FusionConfig()
    hamer: HamerConfig = HamerConfig()
    mesh: MeshConfig = MeshConfig()
    width: int = _number(128, least=2)  # channels of the coarse grid; this key and all below are for "dense"
    fine_blocks: int = 1  # number of blocks on the grid with cells of 4 px
    blocks: int = 4  # number of blocks on the grid with cells of 8 px
    expansion: int = _number(1, least=1)  # hidden channels of a block / channels of the block
    joint_width: int = _number(64, least=1)  # channels per joint
    joint_blocks: int = 1  # number of blocks in every refinement stage
    looks: int = 2  # number of refinement stages after the vote


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms. Each model has a list of its terms. A term with weight 0 is only logged."""

    # How the loss is reduced over the batch. sum: as in HaMeR; configs/hamer.yaml explains the effect.
    reduction: str = _choice("mean", "sum")
    joints_3d: float = 1.0  # distance to the true joint, both relative to the wrist, in units of 100 mm
    joints_2d: float = 1.0  # absolute error of x and y in the crop, as a fraction of half the crop's side
    camera: float = 1.0  # distance to the true joint in the camera's frame, in 100 mm
    depth: float = 1.0  # error of a joint's depth relative to the mean depth of the hand, in units of 100 mm
    distance: float = 0.3  # error of the hand's mean depth, in units of 100 mm; only with a depth image
    size: float = 1.0  # relative error of the hand's depth, as estimated from the hand's size in the image
    guesses: float = 0.5  # auxiliary loss: joints_3d, joints_2d and depth of every intermediate prediction
    vertices: float = 1.0  # distance to the true vertex, both relative to the wrist, in units of 100 mm

    # Terms of rgbd_fusion: sums over the joints of a hand, with UTNet's names and weights.
    w_2d: float = 0.01  # L1 distance of the 2D joints, as a fraction of the crop's side
    w_3d_joint: float = 0.05  # L1 distance of the joints relative to the wrist, in mm
    w_3d_vert: float = 0.0  # L1 distance of the vertices relative to the wrist, in mm
    w_prior: float = 0.001  # mean square of the shape parameters
    w_aux: float = 0.001  # mean squared error of the coarse pose and shape

    # Terms of hamer and wilor: sums over the joints of a hand, with HaMeR's names and weights.
    keypoints_2d: float = 0.01  # L1 distance of the 2D joints, as a fraction of the crop's side
    keypoints_3d: float = 0.05  # L1 distance of the joints relative to the wrist, in m
    global_orient: float = 0.001  # squared error of the wrist's rotation matrix
    hand_pose: float = 0.001  # squared error of the rotation matrices of the 15 finger joints
    betas: float = 0.0005  # squared error of the shape parameters
    adversarial: float = 0.0005  # squared error of the discriminator's output for predicted hands; target: 1
    discriminator: float = 0.0005  # squared error of the discriminator; target: 1 for real, 0 for predicted hands

    extra: dict[str, float] = dataclasses.field(default_factory=dict)  # your own terms, {MODULE:FUNCTION: weight}


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer. `b1` and `b2` belong to Adam, `momentum` and `adam_rate` to Muon."""

    name: str = _choice("adamw", "muon")  # muon: Muon for matrices, Adam for all other parameters
    # highest learning rate, reached after the warm-up; above 0
    learning_rate: float = _number(3e-3, above=0, most=1000)
    weight_decay: float = 1e-4  # decoupled weight decay of matrices; biases and scales have none
    b1: float = _number(0.9, below=1)  # Adam's decay rate of the mean gradient, 0 to below 1
    b2: float = _number(0.99, below=1)  # Adam's decay rate of the mean squared gradient, 0 to below 1
    momentum: float = _number(0.95, below=1)  # Muon's momentum, 0 to below 1
    adam_rate: float = 0.5  # if name is muon: learning rate of Adam / learning rate of Muon
    clip_norm: float = 1.0  # largest global norm of the gradients; larger ones are scaled down; 0: no limit
    # {pattern: factor} on the learning rate of parameters by path, such as {"backbone/*": 0.1}. The last matching
    # pattern counts. Factor 0 freezes parameters: no update and no weight decay.
    rates: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class SchedulerConfig:
    """The learning rate over the steps of a run: a linear warm-up from 0, then a cosine or a constant."""

    name: str = _choice("cosine", "constant")  # curve of the learning rate after the warm-up
    warmup_steps: int = 100  # number of warm-up steps; 0: no warm-up
    eta_min: float = _number(0.0, most=10)  # learning rate at the end of the cosine


@dataclasses.dataclass(frozen=True)
class DeviceMeshConfig:
    """Numbers of devices along the axes of the mesh; their product is the number of all devices. -1: automatic."""

    data: int = _number(-1, least=-1)  # groups of devices that each have all parameters; -1: the devices that remain
    fsdp: int = _number(-1, least=-1)  # devices of a group, if sharding is fsdp; -1: the devices that remain


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Settings of the training loop."""

    num_epochs: int = _number(10, least=1, most=1_000_000)  # number of epochs; each epoch ends with an evaluation
    batch_size: int = _number(64, least=1, most=2**20)  # number of hands per step, on all devices and hosts together
    # number of training hands per epoch; 0: as many as are in the training sets
    epoch_samples: int = _number(0, most=2**40)
    # epochs between checkpoints that are never deleted; the best and the latest two are kept, too
    save_freq: int = _number(10, least=1)
    test_freq: int = 1  # ignored, kept for old configs; every epoch ends with an evaluation
    init_from: str = ""  # run folder; training starts from its best parameters; empty: random parameters
    # Share w of the initial parameters in the tested and saved parameters, w * initial + (1 - w) * trained; at least 0
    # and below 1. Training itself continues from the trained parameters.
    average_with_init: float = _number(0.0, below=1)
    # Decay of an exponential moving average of the parameters, such as 0.9999, which is then tested, ranked and saved;
    # 0: none. In step t the decay is at most (1 + t) / (10 + t). Training itself continues from the raw parameters.
    ema: float = _number(0.0, below=1)
    # number of parts of a batch whose gradients are computed one after the other and added; saves memory
    accumulate: int = _number(1, least=1, most=2**16)
    # replicated: every device has all parameters. fsdp: large arrays of parameters and optimizer are split over the
    # devices along the mesh's axis `fsdp`; the results are the same.
    sharding: str = _choice("replicated", "fsdp")
    mesh: DeviceMeshConfig = DeviceMeshConfig()  # numbers of devices along the axes of the mesh
    metrics: tuple[str, ...] = ()  # additional metrics of every epoch: cs_mpjpe, pa_auc, or your own as MODULE:NAME
    # first and last step of a profiler trace, such as [100, 110]; null: none
    profile: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of one experiment."""

    # seed of all random numbers: initial parameters, order of the samples, augmentation, synthetic hands
    seed: int = _number(0, least=-math.inf)
    data: DataConfig = DataConfig()
    hand: HandConfig = HandConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    training: TrainingConfig = TrainingConfig()
