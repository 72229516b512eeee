"""The files for clusters: they start the command with arguments that it accepts, and fit their schedulers."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from jaxhand import config as configs
from jaxhand import data, models, train
from jaxhand.training import loop, peers
from jaxhand.training.runtime import TERMINATED

DEPLOY = Path(__file__).parents[1] / "deploy"
BATCH = (DEPLOY / "slurm.sbatch").read_text()
JOBSET = yaml.safe_load((DEPLOY / "jobset.yaml").read_text())


def parsed(monkeypatch, words):
    """The config and the arguments of `jaxhand train`; nothing is trained."""
    found = {}
    monkeypatch.setattr(sys, "argv", ["jaxhand", *words, "training.init_from="])
    monkeypatch.setattr(train.runtime, "use_compilation_cache", lambda: None)
    monkeypatch.setattr(train.runtime, "connect", lambda *flags: found.update(connect=flags))
    monkeypatch.setattr(data, "check", lambda name: None)
    monkeypatch.setattr(models, "check", lambda config: None)
    monkeypatch.setattr(loop, "train", lambda config, workdir, allow: found.update(config=config, workdir=workdir) or 0)
    assert train.main() == 0
    return found


def test_the_batch_script_is_sound():
    bash = shutil.which("bash")
    assert bash and subprocess.run([bash, "-n", DEPLOY / "slurm.sbatch"]).returncode == 0
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", BATCH, re.M))
    assert options["ntasks-per-node"] == "1"  # one process drives all GPUs of a host
    assert options["signal"].startswith("TERM@") and "requeue" in options and options["open-mode"] == "append"
    assert f'"$code" -eq {TERMINATED}' in BATCH
    assert BATCH.index("export SRUN_CPUS_PER_TASK=") < BATCH.index("\nsrun ")
    assert BATCH.index("#SBATCH --output") < BATCH.index("set -uo")  # SLURM ignores options after the first command


def test_the_batch_script_starts_a_command_that_parses(monkeypatch):
    (line,) = re.findall(r"^srun .*-m jaxhand\.train (.*)$", BATCH, re.M)
    words = line.replace('"${WORKDIR:-runs/$SLURM_JOB_ID}"', "runs/7").replace('"$@"', "--config hamer").split()
    found = parsed(monkeypatch, words)
    assert found["workdir"] == Path("runs/7") and found["config"].model.name == "hamer"


def test_the_job_set_starts_a_command_that_parses(monkeypatch):
    (job,) = JOBSET["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    python, flag, module, *words = container["command"]
    assert (python, flag, module) == ("python", "-m", "jaxhand.train")
    found = parsed(monkeypatch, [word.replace("$(JOB_COMPLETION_INDEX)", "3") for word in words])
    coordinator, count, process, timeout = found["connect"]
    name = JOBSET["metadata"]["name"]
    assert coordinator == f"{name}-{job['name']}-0-0.{name}:{container['ports'][0]['containerPort']}"
    assert count == spec["completions"] == spec["parallelism"] == 4 and process == 3
    assert timeout == peers.PEER_TIMEOUT_S
    assert spec["completionMode"] == "Indexed" and pod["restartPolicy"] == "Never"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert str(found["workdir"]).startswith("/runs/") and isinstance(found["config"], configs.Config)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck")
def test_shellcheck_finds_nothing():
    subprocess.run(["shellcheck", "--shell=bash", DEPLOY / "slurm.sbatch"], check=True)
