"""The script of docs/orbax.md, which does not import jaxhand, reads a run of four devices on one device."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jaxhand.training.checkpoint import Checkpoints
from tests.support.checkpoint_runs import make_trees, save


def test_the_script_of_the_page(tmp_path):
    page = (Path(__file__).parents[1] / "docs" / "orbax.md").read_text()
    script = tmp_path / "read_best.py"
    script.write_text(page.split("```python\n")[1].split("```")[0])
    assert "jaxhand" not in script.read_text()
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with contextlib.closing(Checkpoints(tmp_path, keep_every_steps=10)) as checkpoints:
        for step, metric in {10: 3.0, 20: 1.0, 30: 2.0, 40: None}.items():
            trees = jax.device_put(make_trees(step), NamedSharding(mesh, PartitionSpec()))
            save(checkpoints, step, metric, named=trees)
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": ""}
    run = [sys.executable, script, tmp_path / "checkpoints"]
    ended = subprocess.run(run, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"step 20: avg_metric = 1.000 mm, {len(jax.tree.leaves(make_trees()['params']))} arrays\n"
