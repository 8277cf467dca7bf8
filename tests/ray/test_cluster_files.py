"""The files in cluster/ against Ray's own command line and schemas."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

CLUSTER = Path(__file__).parents[2] / "cluster"


def test_the_launcher_accepts_the_ray_up_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load((CLUSTER / "cluster.yaml").read_text()))
    validate_config(prepared)
    assert prepared["available_node_types"]["head"]["max_workers"] == 0


def test_the_serve_config_has_only_fields_of_serve() -> None:
    from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

    service = yaml.safe_load((CLUSTER / "rayservice.yaml").read_text())
    content = yaml.safe_load(service["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(content)
    assert set(content) <= set(ServeDeploySchema.model_fields)
    for application in content["applications"]:
        assert set(application) <= set(ServeApplicationSchema.model_fields)


def test_every_ray_command_exists() -> None:
    from ray.scripts.scripts import cli

    text = "\n".join(path.read_text() for path in CLUSTER.iterdir())
    named = set(re.findall(r"(?:^#? *|- |`|token |srun .*)ray ([a-z][a-z-]+)", text, re.M))
    assert {"up", "start", "symmetric-run", "get-auth-token"} <= named
    assert named <= set(cli.commands)


@pytest.mark.parametrize("command", ["head", "worker"])
def test_ray_start_knows_the_options(command: str) -> None:
    from ray.scripts.scripts import start

    launcher = yaml.safe_load((CLUSTER / "cluster.yaml").read_text())
    line = launcher[f"{command}_start_ray_commands"][-1]
    start.make_context("start", shlex.split(line.partition("ray start ")[2]))


def test_symmetric_run_and_ray_start_know_the_options_of_the_slurm_script() -> None:
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    text = (CLUSTER / "slurm.sh").read_text().replace("\\\n", " ")
    line = re.search(r"ray symmetric-run (.*) -- (.*)", text)
    assert line is not None
    values = {"SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_ON_NODE": "4", "SLURM_GPUS_ON_NODE:-0": "8", "head": "node:6379"}
    filled = re.sub(r"\$\{?([\w:-]+)\}?", lambda name: values[name[1]], line[1])
    rest = curate_and_validate_ray_start_args(shlex.split(filled))
    assert start.make_context("start", rest).params["num_gpus"] == 8
    assert line[2].startswith('env RAY_ADDRESS="$head" python jobs/evolve.py')
