"""What a node says it lacks; that every node is asked is in tests/e2e/test_submit.py."""

import json
from pathlib import Path

import pytest

from semievol.runs import lease
from semievol.runtime import cluster
from semievol.runtime.cluster import _missing
from tests.support import packages


def test_a_node_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setenv("HF_TOKEN", "a-secret")
    monkeypatch.delenv("AWS_REGION", raising=False)
    file = tmp_path / lease.FILE
    file.write_text(json.dumps({"owner": "me"}))
    (tmp_path / "data").mkdir()
    sound = {"model.base": str(tmp_path), "data.unlabeled": f"{tmp_path}/data/*.csv"}
    assert _missing((str(file), "me"), sound, ["HF_TOKEN"]) == []

    assert _missing(None, {}, ["HF_TOKEN", "AWS_REGION"]) == ["--env AWS_REGION: not set"]
    gone = {"model.base": f"{tmp_path}/nowhere", "data.test": f"{tmp_path}/nowhere/*.csv"}
    assert _missing(None, gone, []) == [f"{key}: no '{path}'" for key, path in gone.items()]
    for marker in ((str(file), "another"), (f"{tmp_path}/elsewhere/{lease.FILE}", "me")):  # a folder of its own
        [lack] = _missing(marker, {}, [])
        assert lack.startswith("storage: ") and "is not the folder that the driver writes to" in lack


def test_a_node_says_which_packaged_models_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages.write(tmp_path, "a_base", {"config.json": b"{}", "model.safetensors": b""}, version="1.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    drivers = {"model.base": ["package:a_base", "1.0"]}
    assert _missing(None, {}, [], drivers) == []
    older, gone = {"model.base": ["package:a_base", "1.1"]}, {"model.base": ["package:not_here", "1.0"]}
    [lack] = _missing(None, {}, [], older)
    assert lack == "model.base: package:a_base has version 1.0, and the driver's node has 1.1"
    [lack] = _missing(None, {}, [], gone)
    assert lack.startswith("model.base: no Python package 'not_here'. Install it")


def test_a_full_disk_is_said_as_such_however_deep_it_was_found() -> None:
    with pytest.raises(OSError) as found:
        Path("/dev/full").write_text("x")
    wrapped = RuntimeError("a task failed")
    wrapped.__cause__ = found.value
    assert "No space left on device. Make room where the run is stored" in str(cluster.user_error(wrapped))
    assert cluster.user_error(OSError(5, "Input/output error")) is None
