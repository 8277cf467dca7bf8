"""Arguments of TRL, PEFT and DeepSpeed: those that the config has keys for, those that we set, and `extra`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.metadata import version
from typing import Any

from semievol.config import TrainConfig
from semievol.errors import UserError
from semievol.trainers.base import TrainSpec

# Keys of `warmup` and `finetune`: the argument of SFTConfig that each one sets, and those that would change its meaning.
_SFT_KEYS = {
    "epochs": ("num_train_epochs", "max_steps"),
    "learning_rate": ("learning_rate",),
    "scheduler": ("lr_scheduler_type",),
    "warmup_ratio": ("warmup_steps",),  # below 1 it is a share of the steps
    "weight_decay": ("weight_decay",),
    "per_device_batch_size": ("per_device_train_batch_size", "per_device_eval_batch_size", "auto_find_batch_size"),
    "batch_size": ("gradient_accumulation_steps",),
    "max_length": ("max_length", "truncation_mode"),
    "zero_stage": ("deepspeed", "fsdp", "fsdp_config"),
}
# Of two names of an argument TRL ignores the old one where both are given.
_SFT_OTHERS = {
    **{"seed": "seed", "data_seed": "seed", "gradient_checkpointing": "trainer.extra.activation_checkpointing"},
    "gradient_checkpointing_kwargs": "trainer.extra.activation_checkpointing_kwargs",
    "bf16": "trainer.dtype",
}
_LORA_KEYS = {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout", "target_modules": "targets"}
_LORA_OTHERS = {"layers_to_transform": "layers", "layers_pattern": "layers"}
# Arguments that would change nothing, because we load the model and render the rows, or that would break the run.
_OURS = {
    *("output_dir", "use_cpu", "save_strategy", "disable_tqdm", "include_num_input_tokens_seen", "dataset_kwargs"),
    *("model_init_kwargs", "trust_remote_code", "chat_template_path", "eos_token", "dataset_text_field"),
    *("dataset_num_proc", "shuffle_dataset", "packing", "packing_strategy", "eval_packing", "completion_only_loss"),
    *("assistant_only_loss", "resume_from_checkpoint", "remove_unused_columns"),
    *("task_type", "peft_type", "inference_mode", "base_model_name_or_path", "auto_mapping", "peft_version"),
}
_REFUSALS = (TypeError, ValueError, ImportError)


def check(extras: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse arguments that cannot be passed on: unknown ones, and those that a key of the config or we set.

    Args:
        extras: by their keys, `trainer.extra` and `warmup.lora.extra`.
    """
    from peft import LoraConfig
    from trl import SFTConfig

    lora_keys = _LORA_KEYS | _LORA_OTHERS
    own = {key: {name: key.removesuffix("extra") + ours for name, ours in lora_keys.items()} for key in extras}
    sft_keys = {name: f"warmup.{key} and finetune.{key}" for key, names in _SFT_KEYS.items() for name in names}
    own["trainer.extra"] = sft_keys | _SFT_OTHERS
    for key, extra in extras.items():
        target: Any = SFTConfig if key == "trainer.extra" else LoraConfig
        names = [field.name for field in dataclasses.fields(target)]
        for name in extra:
            if use := own[key].get(name):
                raise UserError(f"{key}.{name}: this has a key of its own; use {use}")
            if name not in names:
                library = target.__module__.partition(".")[0]
                hint = "".join(f"; did you mean {near}?" for near in get_close_matches(name, names, 1))
                where = f"{target.__name__} of {library.upper()} {version(library)}"
                raise UserError(f"{key}.{name}: {where} has no such argument{hint}")
            if name in _OURS:
                raise UserError(f"{key}.{name}: the trainer sets this itself; leave it out")


@contextmanager
def refused(key: str, extra: Mapping[str, Any], target: str, *errors: type[Exception]) -> Iterator[None]:
    """Turn errors of a library into a UserError where the user chose its arguments."""
    try:
        yield
    except errors as error:
        if not extra:
            raise
        raise UserError(f"{key}: {target} does not take {', '.join(extra)} as given: {error}") from None


def precision(dtype: str, use_gpu: bool) -> str:
    """Return the precision that `trainer.dtype` stands for on this machine."""
    import torch

    if dtype != "auto":
        return dtype
    # Also older CPUs take bfloat16, but unpack each product into float32.
    multiply = (getattr(torch.cpu, f"_is_{what}_supported", bool) for what in ("amx_tile", "avx512_bf16"))
    return "bfloat16" if use_gpu or any(supported() for supported in multiply) else "float32"


def sft(spec: TrainSpec, extra: Mapping[str, Any], world: int, scratch: str, use_gpu: bool, dtype: str) -> Any:
    """Return TRL's SFTConfig for `world` workers, with `trainer.extra`.

    Args:
        dtype: bfloat16 or float32. On CPUs weights are float32, and autocast makes products bfloat16.
    """
    from trl import SFTConfig

    config, bf16 = spec.config, dtype == "bfloat16"
    arguments: dict[str, Any] = {"activation_checkpointing": use_gpu, "logging_steps": 5, "report_to": []} | dict(extra)
    arguments |= {names[0]: getattr(config, key) for key, names in _SFT_KEYS.items()}
    arguments |= {
        "gradient_accumulation_steps": config.batch_size // (config.per_device_batch_size * world),
        "deepspeed": deepspeed_config(config.zero_stage, autocast=bf16 and not use_gpu),
        "max_steps": spec.steps or -1,
    }
    with refused("trainer.extra", extra, "SFTConfig", *_REFUSALS):
        return SFTConfig(
            **arguments,
            output_dir=scratch,
            seed=spec.seed,
            data_seed=spec.seed,
            dataset_kwargs={"skip_prepare_dataset": True},  # rows are tokens already (semievol.trainers.render)
            per_device_eval_batch_size=config.per_device_batch_size,
            remove_unused_columns=False,
            bf16=bf16 and use_gpu,
            use_cpu=not use_gpu,
            save_strategy="no",
            disable_tqdm=True,
            include_num_input_tokens_seen=True,
        )


def deepspeed_config(zero_stage: int, *, autocast: bool) -> dict[str, Any]:
    """Return DeepSpeed's JSON; transformers fills in "auto" values from the training arguments."""
    return {
        "zero_optimization": {"stage": zero_stage},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        **({"torch_autocast": {"enabled": True, "dtype": "bfloat16"}} if autocast else {}),
        # torch's own AdamW, sharded by ZeRO: DeepSpeed's CPU optimizer would want a compiler on every node.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def lora(stage: str, config: TrainConfig, model: Any) -> Any:
    """Return PEFT's LoraConfig for a model of transformers."""
    from peft import LoraConfig

    keys = config.lora
    arguments = keys.extra | {name: getattr(keys, key) for name, key in _LORA_KEYS.items()}
    if keys.targets == ["all-linear"]:
        arguments["target_modules"] = "all-linear"
    if keys.layers is not None:
        arguments |= _upper_layers(model, keys.layers, keys.targets, f"{stage}.lora.layers")
    with refused(f"{stage}.lora.extra", keys.extra, "LoraConfig", *_REFUSALS):
        return LoraConfig(**arguments, task_type="CAUSAL_LM")


def _upper_layers(model: Any, wanted: int, targets: list[str], key: str) -> dict[str, Any]:
    """Return the arguments by which only the upper layers of the language model are trained."""
    from torch.nn import Linear, ModuleList
    from transformers.pytorch_utils import Conv1D

    count, own = model.config.get_text_config().num_hidden_layers, set(model.get_decoder().modules())
    stacks = [
        (name, m) for name, m in model.named_modules() if isinstance(m, ModuleList) and len(m) == count and m in own
    ]
    if not stacks:
        raise UserError(f"{key}: the layers of {type(model).__name__} are not found; leave it out")
    name, layers = stacks[0]
    linear = {path.rpartition(".")[2] for path, module in layers.named_modules() if isinstance(module, Linear | Conv1D)}
    return {
        "target_modules": sorted(linear) if targets == ["all-linear"] else targets,
        "layers_to_transform": list(range(max(0, count - wanted), count)),
        "layers_pattern": re.escape(name),
    }
