"""What travels with merged weights: tokenizer, chat template, generation settings, and the further files of the base.

All of it is also written before a training, so that what cannot be saved ends a run at once and not after hours.
"""

from __future__ import annotations

import json
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from semievol.engines.chat_template import ChatTemplate, load_tokenizer
from semievol.engines.templates import ChatSettings, file_of
from semievol.errors import UserError

# Files of a processor, a tokenizer or a template have these endings; weights, pickles, code and READMEs have others.
_ENDINGS = {".json", ".jinja", ".txt", ".model", ".tiktoken"}
# Of these endings, but about weights in another form than the merged ones, or about how the base was made.
_ABOUT_WEIGHTS = re.compile(
    r"config\.json|.*\.index\.json|.*quant.*|params\.json|tekken\.json|consolidated.*|adapter_.*|.*(?:^|_)(?:results|state)\.json"
    r"|training_args.*|(?:requirements|licen[sc]e|notice|usage_policy|use_policy|readme|merges_log).*|.*dataset.*",
    re.IGNORECASE,
)
_MAX_BYTES = 64 * 2**20
# Settings that decide which others are valid.
_FIRST = ("do_sample", "num_beams", "cache_implementation")


def save(base: str, chat: ChatSettings, folder: Path) -> list[str]:
    """Write all that an engine needs beside the weights. Return the generation settings that had to be left out.

    Args:
        base: a local folder or a hub id.
    """
    from transformers import AutoConfig

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer(base)
    template = ChatTemplate(tokenizer, chat.template, chat.thinking)
    if template.end is None:
        raise UserError(
            f"model.base: neither the chat template nor the tokenizer of {base} has a token that ends a turn, so a trained "
            f"model would never stop. Name an eos_token in its tokenizer_config.json"
        )
    own = tokenizer.chat_template
    tokenizer.chat_template = own | {"default": template.source} if isinstance(own, dict) else template.source
    tokenizer.save_pretrained(str(folder))
    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    generation, dropped = generation_config(base)
    ends = [*_ids(generation.eos_token_id), *_ids(config.get_text_config().eos_token_id), tokenizer.eos_token_id]
    ends = [end for end in dict.fromkeys([*ends, *template.stop_token_ids]) if end is not None]
    generation.eos_token_id = ends[0] if len(ends) == 1 else ends or None
    generation.save_pretrained(str(folder))
    if not (folder / "config.json").exists():
        config.save_pretrained(str(folder))
    for file in _further_files(base):
        stale = file.name == "chat_template.json" and template.source != own  # a processor would prefer it
        if not (folder / file.name).exists() and not stale:
            shutil.copyfile(file, folder / file.name)
    return dropped


def check(base: str, chat: ChatSettings, folder: Path) -> list[str]:
    """Write it all to an empty folder, before a training. Raise UserError for what could not be saved after it."""
    from transformers import AutoConfig

    if Path(base, "adapter_config.json").exists():
        raise UserError(f"model.base: {base} holds an adapter, and what is trained here is another. Merge it first")
    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    if quantized := getattr(config, "quantization_config", None):
        kind = quantized.get("quant_method") if isinstance(quantized, dict) else quantized.quant_method
        raise UserError(
            f"model.base: the weights of {base} are quantized ({kind}), and an adapter cannot be merged into them. Use the "
            f"model that they were made from"
        )
    try:
        return save(base, chat, folder)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"model.base: what stands beside the weights of {base} loads, but cannot be saved with a trained model "
            f"({type(error).__name__}: {error}). Correct its config.json, generation_config.json or tokenizer files"
        ) from error


def generation_config(base: str) -> tuple[Any, list[str]]:
    """Return the generation settings of a model as they can be saved, and the names of those that were left out.

    Many models ship a temperature without `do_sample`, which transformers loads and refuses to save.
    """
    from transformers import AutoConfig, GenerationConfig

    file = file_of(base, "generation_config.json")
    if file:
        given = json.loads(Path(file).read_text("utf-8"))
    else:
        given = _from_model_config(AutoConfig.from_pretrained(base, trust_remote_code=False))
    given = {name: value for name, value in given.items() if not name.startswith("_") and value is not None}
    kept = _valid(given)
    if "do_sample" not in given and kept != given:  # without it, a temperature is not valid, though engines read it
        kept = _valid({"do_sample": True} | given)
    return GenerationConfig(**kept), sorted(given.keys() - kept.keys())


def _valid(given: dict[str, Any]) -> dict[str, Any]:
    """Return the generation settings that transformers saves together."""
    from transformers import GenerationConfig

    kept: dict[str, Any] = {}
    for name in sorted(given, key=lambda name: name not in _FIRST):
        with suppress(ValueError, TypeError, AttributeError):
            GenerationConfig(**kept | {name: given[name]}).validate(strict=True)
            kept[name] = given[name]
    return kept


def _from_model_config(config: Any) -> dict[str, Any]:
    from transformers import GenerationConfig

    try:
        return dict(GenerationConfig.from_model_config(config).to_diff_dict())
    except ValueError:  # settings of the decoder that are out of range
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        return {name: getattr(config.get_text_config(), name, None) for name in names}


def _further_files(base: str) -> list[Path]:
    """Return the base's small files that belong to a processor, a tokenizer or a template."""
    folder = Path(base)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        patterns = [f"*{ending}" for ending in _ENDINGS]
        folder = Path(snapshot_download(base, allow_patterns=patterns))
    return [
        file
        for file in sorted(folder.iterdir())
        if file.is_file() and file.suffix in _ENDINGS and not file.name.startswith(".")
        if not _ABOUT_WEIGHTS.fullmatch(file.name) and file.stat().st_size <= _MAX_BYTES
    ]


def _ids(given: int | list[int] | None) -> list[int]:
    return [each for each in (given if isinstance(given, list) else [given]) if isinstance(each, int)]
