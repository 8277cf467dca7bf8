"""The files in cluster/ against the types, commands and settings they name. Nothing here starts a cluster."""

import re
import shlex
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kubernetes.utils.quantity import parse_quantity
from pydantic import ValidationError

import semievol
from semievol import config
from tests.support import kuberay_types

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
MANIFESTS = sorted(CLUSTER.glob("ray*.yaml"))
DOCKERFILES = sorted(CLUSTER.glob("Dockerfile.*"))
INSTALLED_AT = "/opt/semievol"  # in the images
RAY = re.search(r"ray\[.*\]==([\d.]+)", (ROOT / "pyproject.toml").read_text())[1]  # type: ignore[index]


def documents(path: Path) -> dict[str, dict[str, Any]]:
    return {document["kind"]: document for document in yaml.safe_load_all(path.read_text())}


def cluster_of(path: Path) -> dict[str, Any]:
    """The cluster spec of a manifest, whatever kind it is of."""
    spec = next(d["spec"] for kind, d in documents(path).items() if kind.startswith("Ray"))
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def pods(path: Path) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """(pod spec, rayStartParams) of the head and of each worker group."""
    spec = cluster_of(path)
    groups = {"head": spec["headGroupSpec"]} | {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    return {name: (group["template"]["spec"], group["rayStartParams"]) for name, group in groups.items()}


def load_settings(folder: Path, settings: list[str]) -> None:
    """Fails where one is unknown or of a wrong type."""
    (folder / "c.yaml").write_text("{name: x, model: {base: m}, data: {labeled: l, unlabeled: u, test: t}}")
    config.load(str(folder / "c.yaml"), settings)


def test_images_have_the_version_of_the_package() -> None:
    tags = {tag for path in CLUSTER.iterdir() for tag in re.findall(r"semievol:([\d.]+)-[cg]pu", path.read_text())}
    assert tags == {semievol.__version__}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
def test_manifests_have_only_fields_that_kubernetes_and_kuberay_know(path: Path) -> None:
    found = documents(path)
    for document in found.values():
        kuberay_types.check(document)
    assert any(kind.startswith("Ray") for kind in found)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("idleTimeoutSeconds", "idleTimeoutSecs"),
        ("secretKeyRef", "secretKeyref"),
        ("mountPath", "mount_path"),
        ("mode: token", "mode: tokens"),
        ('num-cpus: "0"', "num-cpus: 0"),
        ("groupName: gpu", "name: gpu"),
    ],
)
def test_a_misspelt_field_would_be_found(old: str, new: str) -> None:
    text = (CLUSTER / "raycluster.yaml").read_text()
    assert old in text
    with pytest.raises((ValidationError, AssertionError)):
        kuberay_types.check(yaml.safe_load(text.replace(old, new, 1)))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.name)
def test_nodes_are_what_they_should_be(path: Path) -> None:
    spec, groups = cluster_of(path), pods(path)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["rayVersion"] == RAY
    assert set(groups) == {"head", "gpu", "cpu"}
    assert groups["head"][1]["num-cpus"] == groups["head"][1]["num-gpus"] == "0"
    for name, (pod, start) in groups.items():
        (container,) = pod["containers"]
        assert re.fullmatch(r"[\w./-]+:[\d.]+-(cpu|gpu)", container["image"])  # a version, never `latest`
        assert container["image"].endswith("-gpu") == (name == "gpu")
        resources = container["resources"]
        assert resources["limits"] == resources["requests"]  # what Ray is told is what there is
        assert ("nvidia.com/gpu" in resources["limits"]) == (name == "gpu")
        (shm,) = (volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shm")
        assert shm["medium"] == "Memory"
        assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        store, room = int(start["object-store-memory"]), parse_quantity(shm["sizeLimit"])
        assert store < room < parse_quantity(resources["limits"]["memory"])
        assert pod["securityContext"]["runAsNonRoot"] and not container["securityContext"]["allowPrivilegeEscalation"]
        assert all("secretKeyRef" in variable["valueFrom"] for variable in container["env"])
    for group in spec["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] < group["maxReplicas"]


def test_job_and_service_describe_the_nodes_of_the_cluster() -> None:
    job, alone = cluster_of(CLUSTER / "rayjob.yaml"), cluster_of(CLUSTER / "raycluster.yaml")
    assert job["workerGroupSpecs"] == alone["workerGroupSpecs"]
    service = pods(CLUSTER / "rayservice.yaml")
    for name, (pod, start) in pods(CLUSTER / "raycluster.yaml").items():
        container, served = pod["containers"][0], service[name][0]["containers"][0]
        assert start == service[name][1]
        assert {k: v for k, v in container.items() if k != "env"} == {k: v for k, v in served.items() if k != "env"}
        assert [v for v in served["env"] if v not in container["env"]] == [
            {
                "name": "SEMIEVOL_API_KEYS",
                "valueFrom": {"secretKeyRef": {"name": "semievol-keys", "key": "SEMIEVOL_API_KEYS"}},
            }
        ]


def test_the_job_retries_ends_and_runs_a_config_that_loads(tmp_path: Path) -> None:
    found = documents(CLUSTER / "rayjob.yaml")
    spec, data = found["RayJob"]["spec"], found["ConfigMap"]["data"]
    assert spec["backoffLimit"] > 0 and spec["activeDeadlineSeconds"] > 0 and spec["shutdownAfterJobFinishes"]
    python, script, file = shlex.split(spec["entrypoint"])
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (volume,) = (v for v in head["volumes"] if "configMap" in v)
    (mount,) = (m for m in head["containers"][0]["volumeMounts"] if m["name"] == volume["name"])
    assert volume["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]
    assert python == "python" and script == f"{INSTALLED_AT}/jobs/evolve.py"
    assert Path(file).parent == Path(mount["mountPath"]) and Path(file).name in data
    (tmp_path / "run.yaml").write_text(data[Path(file).name])
    loaded = config.load(str(tmp_path / "run.yaml"))
    for uri in (loaded.storage, loaded.model.base, loaded.data.labeled, loaded.data.unlabeled, loaded.data.test):
        assert "://" in uri, f"{uri} is on no node but one"


def test_the_service_serves_our_application(tmp_path: Path) -> None:
    serve = yaml.safe_load(documents(CLUSTER / "rayservice.yaml")["RayService"]["spec"]["serveConfigV2"])
    (application,) = serve["applications"]
    assert set(application) == {"name", "import_path", "route_prefix", "args"}  # fields checked in tests/ray
    assert application["route_prefix"] == "/"
    assert set(application["args"]) == {"run", "overrides"}
    load_settings(tmp_path, application["args"]["overrides"])
    module, _, function = application["import_path"].partition(":")
    assert re.search(rf"^def {function}\(", Path(find_spec(module).origin).read_text(), re.M)  # type: ignore


def test_ray_up_file_is_valid_for_ray() -> None:
    (ray,) = find_spec("ray").submodule_search_locations  # type: ignore  # its schema, without its import
    schema = yaml.safe_load((Path(ray) / "autoscaler" / "ray-schema.json").read_text().replace("\t", " "))
    launcher = yaml.safe_load((CLUSTER / "cluster.yaml").read_text())
    jsonschema.validate(launcher, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(launcher | {"max_worker": 1}, schema)
    types = launcher["available_node_types"]
    assert types[launcher["head_node_type"]]["resources"]["CPU"] == 0
    assert sum(node.get("max_workers", 0) for node in types.values()) <= launcher["max_workers"]
    assert any(remote.endswith("/.ray/auth_token") for remote in launcher["file_mounts"])
    for start in (launcher["head_start_ray_commands"], launcher["worker_start_ray_commands"]):
        assert all("RAY_AUTH_MODE=token" in command for command in start if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in launcher["head_start_ray_commands"][-1]
    images = [launcher["docker"]["image"], types["gpu"]["docker"]["worker_image"]]
    assert images == [pods(CLUSTER / "raycluster.yaml")[group][0]["containers"][0]["image"] for group in ("cpu", "gpu")]


def test_slurm_script_is_bash_with_a_token_that_is_on_no_command_line() -> None:
    script = CLUSTER / "slurm.sh"
    checked = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    code = [line for line in script.read_text().splitlines() if not line.startswith("#")]
    assert "export RAY_AUTH_MODE=token" in code and "export RAY_AUTH_TOKEN" in code
    assert "set -euo pipefail" in code
    assert "AUTH_TOKEN" not in "".join(code[code.index("export RAY_AUTH_TOKEN") + 1 :])


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.suffix[1:])
def test_images_are_pinned_and_run_as_nobody_special(path: Path) -> None:
    lines = re.sub(r"\\\n", " ", path.read_text()).splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    extra = path.suffix[1:]
    assert {name for name, _ in steps} <= {"FROM", "USER", "WORKDIR", "COPY", "RUN", "ENV", "CMD"}  # no ADD, no ARG
    assert [rest for name, rest in steps if name == "FROM"] == [f"rayproject/ray:{RAY}-py311-{extra}"]
    assert [rest for name, rest in steps if name == "USER"][-1] == "ray"
    assert ["WORKDIR", INSTALLED_AT] in steps
    for source in (source for name, rest in steps if name == "COPY" for source in rest.split()[:-1]):
        assert (ROOT / source).exists(), f"COPY {source}"
        assert source != ".", "everything, with whatever secrets lie about"
    (install,) = (rest for name, rest in steps if name == "RUN")
    extras = re.search(r"'\.\[([\w,]+)\]'", install)[1].split(",")  # type: ignore[index]
    declared = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.M)
    assert extra in extras and set(extras) <= set(declared)
    assert ["ENV", "RAY_AUTH_MODE=token"] in steps
    assert not re.search(r"(?i)(secret|token|password|key)\S*=(?!token\b)\S", path.read_text())


def commands() -> list[str]:
    """Every command of ours in the files, comments included: `semievol NAME ...` and `python .../jobs/NAME.py ...`."""
    text = "\n".join(path.read_text() for path in sorted(CLUSTER.iterdir())).replace("\\\n", " ")
    found = re.findall(rf"(?:python (?:{INSTALLED_AT}/)?jobs/\w+\.py|semievol [a-z]+\b(?= [^#\n]))[^#\n`|]*", text)
    return sorted({command.strip() for command in found})


@cache
def help_of(command: str) -> subprocess.CompletedProcess[str]:
    program, target, *_ = command.split()
    start = [str(ROOT / target.removeprefix(f"{INSTALLED_AT}/"))] if program == "python" else ["-m", program, target]
    return subprocess.run([sys.executable, *start, "--help"], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.parametrize("command", commands())
def test_commands_exist_with_their_options(command: str) -> None:
    program, target, *arguments = command.split()
    shown = help_of(f"{program} {target}")
    assert shown.returncode == 0, shown.stderr
    for option in (argument for argument in arguments if argument.startswith("--")):
        assert option in shown.stdout


def test_commands_and_settings_were_found_and_the_settings_are_known(tmp_path: Path) -> None:
    found = " ".join(commands())
    for expected in ("python /opt/semievol/jobs/evolve.py", "python jobs/evolve.py", "semievol submit my.yaml"):
        assert expected in found
    settings = {
        s for path in CLUSTER.iterdir() for s in re.findall(r"(?<=\s)[a-z_]+(?:\.[a-z_]+)+=\S+", path.read_text())
    }
    assert settings, "no command shows a setting"
    load_settings(tmp_path, sorted(settings))
