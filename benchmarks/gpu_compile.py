"""Programs for H100s, compiled without a GPU: `python -m benchmarks.gpu_compile CONFIG [key=value …] --devices 8`.

XLA compiles for a GPU from a description of it. Without a config, the steps of several experiments are compiled for one
H100, then PA-MPJPE and the renderer. Nothing is run, so the table has no speeds: time to compile, memory of a device,
and what it sends in a step. It needs an environment with `jax[cuda12]`, next to the project's requirements.
"""

import argparse
import collections
import os
import time
from collections.abc import Callable, Iterator, Sequence

os.environ["JAX_PLATFORMS"] = "cpu"  # before JAX starts; the plugin for CUDA finds no GPU

import jax  # noqa: E402
import numpy as np  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import Mesh  # noqa: E402

from jaxhand import config as configs  # noqa: E402
from jaxhand.data.synthetic import dataset, render  # noqa: E402
from jaxhand.metrics import procrustes  # noqa: E402
from jaxhand.training import collectives, compiled, sharding  # noqa: E402
from jaxhand.training.step import Trainer  # noqa: E402

# The form of XLA's `h100_sxm.txtpb`, with figures of the data sheet and of CUDA's table of compute capabilities.
H100 = """
gpu_device_info {
  name: "NVIDIA H100 80GB HBM3" device_vendor: "NVIDIA Corporation" platform_version: "Compute Capability 9.0a"
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 device_memory_size: 84942979072
  pcie_bandwidth: 34359738368 ecc_enabled: true device_address_bits: 64
  driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0" dnn_version: "9.10.0"
  device_interconnect_info { active_links: 18 }
}
platform_name: "CUDA"
dnn_version_info { major: 8 minor: 9 patch: 4 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
# Without a GPU, XLA cannot try which tiles of Triton suit a matrix product, and some of its defaults do not compile.
OPTIONS = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
PER_HOST = 8
EXPERIMENTS = (
    ("quickstart",),
    ("fast_mesh_synthetic",),
    ("rgbd_fusion_synthetic",),
    ("photographs_synthetic",),
    ("hamer_synthetic", "model.vit.size=H", "model.dtype=bfloat16", "data.image_size=256", "training.batch_size=64"),
)
HANDS, IMAGES = 1_000_000, 1024
HEADER = (
    "| program | compile, s | arguments, MB | temporary, MB | gathered · scattered · all-reduced, MB sent |\n"
    "|---|---|---|---|---|"
)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_compile", description=__doc__)
    parser.add_argument("experiment", nargs="*", metavar="CONFIG key=value", help="default: several experiments")
    parser.add_argument("--devices", type=int, default=1, help="number of H100s, 8 in a host (default: 1)")
    arguments = parser.parse_intermixed_args(argv)
    devices = h100s(arguments.devices)
    print(HEADER)
    for experiment in [arguments.experiment] if arguments.experiment else EXPERIMENTS:
        for row in steps(experiment, devices):
            print(row, flush=True)
    if not arguments.experiment:
        for row in others(devices):
            print(row, flush=True)


def h100s(count: int) -> list:
    """Descriptions of so many H100s, for which XLA compiles."""
    hosts = max(count // PER_HOST, 1)
    described = topologies.get_topology_desc(
        platform="cuda", topology_name="", topology=f"1x{hosts}x{count // hosts}", target_config=H100
    )
    return described.devices


def steps(experiment: Sequence[str], devices: list) -> Iterator[str]:
    """The rows of an experiment: drawing its parameters, its train step and its eval step."""
    config = configs.load(experiment[0], experiment[1:])
    axes = sharding.mesh_axes(config.training, len(devices))
    trainer = Trainer(config, Mesh(np.array(devices).reshape(*axes.values()), tuple(axes)), total_steps=2)
    state, batch = trainer.abstract_state, trainer.abstract_batch()
    name = f"`{' '.join(experiment)}`"
    yield compiled_row(f"{name}, parameters", trainer.init.trace)
    yield compiled_row(f"{name}, train step", lambda: trainer.train_step.trace(state, batch))
    model = state["params"], state["batch_stats"]
    yield compiled_row(f"{name}, eval step", lambda: trainer.eval_step.trace(*model, batch))


def others(devices: list) -> Iterator[str]:
    """The rows of PA-MPJPE and of the renderer on the first device."""
    here = jax.sharding.SingleDeviceSharding(devices[0])
    place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)  # noqa: E731
    hands = place(jax.ShapeDtypeStruct((HANDS, 21, 3), np.float32))
    aligned = jax.jit(lambda pred, gt: procrustes.aligned_error(pred, gt))
    yield compiled_row(f"PA-MPJPE of {HANDS:,} hands", lambda: aligned.trace(hands, hands))
    scenes = jax.tree.map(place, jax.eval_shape(lambda: dataset.sample_scenes(0, np.arange(IMAGES), "front")))
    draw = jax.jit(lambda scenes: render.render(scenes, 64))
    yield compiled_row(f"{IMAGES:,} rendered images of 64 px", lambda: draw.trace(scenes))


def compiled_row(name: str, trace: Callable) -> str:
    """Compile a traced function, and return its row of the table."""
    lowered, begin = trace().lower(lowering_platforms=("cuda",)), time.monotonic()
    program = lowered.compile(compiler_options=OPTIONS)
    seconds, memory = time.monotonic() - begin, program.memory_analysis()
    sent = collections.Counter()
    for each in compiled.traffic(collectives.read(program.as_text()), PER_HOST):
        sent[each.collective] += each.sent
    kinds = " · ".join(f"{sent[kind] / 1e6:,.2f}" for kind in ("all-gather", "reduce-scatter", "all-reduce"))
    sizes = f"{memory.argument_size_in_bytes / 1e6:,.0f} | {memory.temp_size_in_bytes / 1e6:,.0f}"
    return f"| {name} | {seconds:.1f} | {sizes} | {kinds if sent else 'nothing'} |"


if __name__ == "__main__":
    main()
