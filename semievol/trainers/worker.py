"""One rank of a fine-tuning: TRL's SFTTrainer with LoRA and DeepSpeed. Rank 0 merges the adapter and uploads both."""

from __future__ import annotations

import json
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from semievol.config import LoraConfig
from semievol.data import models, storage
from semievol.engines.chat_template import load_tokenizer
from semievol.errors import UserError
from semievol.trainers import arguments, companions, loss
from semievol.trainers.base import ADAPTER, METRICS, MODEL, TrainSpec


@dataclass(frozen=True)
class Job:
    """One fine-tuning, as each rank is given it."""

    stage: str
    spec: TrainSpec
    use_gpu: bool  # what was reserved, not what the machine has
    extras: dict[str, dict[str, Any]]  # trainer.extra and those of LoRA, by their keys
    dtype: str = "auto"  # as trainer.dtype


def work(given: dict[str, Any]) -> None:
    """Train, as each rank does."""
    import ray.train

    job, progress = given["job"], given["progress"]
    arguments.check(job.extras)
    spec = job.spec
    rank, world = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
    base = models.local(spec.base)
    _check_targets(base, spec.config.lora)
    with tempfile.TemporaryDirectory(prefix="semievol-check-") as scratch:
        dropped = companions.check(base, spec.chat, Path(scratch))
    if not job.use_gpu:
        _adapt_to_cpus()
    dtype = _agreed(arguments.precision(job.dtype, job.use_gpu))
    with tempfile.TemporaryDirectory(prefix="semievol-train-") as scratch:
        trainer = _sft_trainer(job, base, world, scratch, dtype)
        if rank == 0:
            trainer.add_callback(_progress_callback(progress, how := _said(spec, dtype)))
        with _extra_refused(job, ImportError):  # transformers looks for Liger's package here
            output = trainer.train()
        adapter = Path(scratch) / ADAPTER
        trainer.save_model(str(adapter))  # every rank: ZeRO-3 gathers the weights from all
        held_out = trainer.held_out(_dataset(spec.held_out, scratch)) if spec.held_out else {}  # every rank, too
        if rank == 0:
            _publish(base, spec, adapter, Path(scratch) / MODEL)
            metrics = _metrics(output, trainer.state) | how | held_out
            metrics |= {"generation_settings_left_out": dropped} if dropped else {}
            storage.write_text(storage.join(spec.out, METRICS), json.dumps(metrics))


def _sft_trainer(job: Job, base: str, world: int, scratch: str, dtype: str) -> Any:
    import torch

    # First, as ZeRO-3 decides how weights load.
    args = arguments.sft(job.spec, job.extras["trainer.extra"], world, scratch, job.use_gpu, dtype)
    model = _load(base, torch.bfloat16 if args.bf16 else torch.float32)
    given: dict[str, Any] = {
        "train_dataset": _dataset(job.spec.rows, scratch),
        "processing_class": load_tokenizer(base),
    }
    given["peft_config"] = arguments.lora(job.stage, job.spec.config, model)
    with _extra_refused(job, ValueError, ImportError):
        return loss.sft_trainer(job.spec, model=model, args=args, **given)


def _agreed(dtype: str) -> str:
    """Return the precision in which all ranks can train, on machines that may differ."""
    import torch.distributed as dist

    found: list[Any] = [dtype] * dist.get_world_size()
    dist.all_gather_object(found, dtype)
    return dtype if len(set(found)) == 1 else "float32"


def _said(spec: TrainSpec, dtype: str) -> dict[str, Any]:
    """Return what the trainer has decided: for the metrics, and for people who watch."""
    return {"dtype": dtype} | ({} if spec.steps else {"epochs": spec.config.epochs})


def _extra_refused(job: Job, *errors: type[Exception]) -> AbstractContextManager[None]:
    extra = job.extras["trainer.extra"] | job.spec.config.lora.extra
    return arguments.refused(f"trainer.extra and {job.stage}.lora.extra", extra, "TRL", *errors)


def _adapt_to_cpus() -> None:
    """Change what DeepSpeed would do where there is no GPU."""
    import deepspeed

    # DeepSpeed 0.19 would compile a shared-memory all-reduce at its start, which only inference calls.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def _metrics(output: Any, state: Any) -> dict[str, Any]:
    curve = [[log["step"], log["loss"]] for log in state.log_history if "loss" in log]
    return {
        "steps": output.global_step,
        "loss": round(float(output.training_loss), 5),
        "loss_curve": curve[:: max(1, len(curve) // 50)],
        "tokens": int(state.num_input_tokens_seen or 0),
        "train_seconds": round(output.metrics["train_runtime"], 2),
    }


def _dataset(rows: str, scratch: str) -> Any:
    """Return the tokens of the usable rows, memory-mapped, in the order of their ids."""
    import pyarrow.compute as pc
    from datasets import load_dataset

    files = sorted(map(str, Path(storage.local_copy(rows)).glob("*.parquet")))
    usable, columns = pc.field("quarantine_reason").is_null(), ["row_id", "input_ids", "labels", "soft"]
    settings: dict[str, Any] = {"cache_dir": scratch, "filters": usable, "columns": columns}
    dataset = load_dataset("parquet", data_files=files, split="train", **settings)
    return dataset.sort("row_id").select_columns(columns[1:])


def _check_targets(base: str, lora: LoraConfig) -> None:
    """Refuse to train one of two tied matrices: both would change when the adapter is merged."""
    from transformers import AutoConfig

    tied = AutoConfig.from_pretrained(base, trust_remote_code=False).tie_word_embeddings
    trained = {*lora.targets, *(lora.extra.get("modules_to_save") or ())}
    if tied and (both := {"embed_tokens", "lm_head"} & trained):
        why = "is tied in this model (tie_word_embeddings), so an adapter on it cannot be merged"
        way_out = "Take it out of warmup.lora and finetune.lora (targets, extra.modules_to_save)"
        raise UserError(f"lora.targets: {', '.join(sorted(both))} {why}. {way_out}")


def _progress_callback(progress: Any, how: dict[str, Any]) -> Any:
    from transformers import TrainerCallback

    said = ", ".join(f"{name} {value:g}" if isinstance(value, float) else str(value) for name, value in how.items())

    class Report(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            progress.add.remote(1)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                progress.add.remote(0, f"loss {float(logs['loss']):.3f} ({said})")

    return Report()


def _publish(base: str, spec: TrainSpec, adapter: Path, merged: Path) -> None:
    """Upload the adapter, and the base with the adapter merged in, which is what bulk inference runs on."""
    import torch
    from peft import PeftModel
    from transformers import AutoConfig
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    for pickle in adapter.glob("*.bin"):
        pickle.unlink()  # training_args.bin: a pickle that nobody needs
    settings = adapter / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"base_model_name_or_path": spec.base}, indent=2))
    unset_hf_deepspeed_config()  # else ZeRO-3 would load the weights sharded
    full = _load(base, torch.float32)  # for an exact merge
    model = PeftModel.from_pretrained(full, str(adapter)).merge_and_unload()
    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    dtype = config.dtype or config.get_text_config().dtype
    model = model.to(dtype) if dtype is not None else model
    model.save_pretrained(str(merged))
    companions.save(base, spec.chat, merged)
    storage.upload(str(adapter), storage.join(spec.out, ADAPTER))
    storage.upload(str(merged), storage.join(spec.out, MODEL))


def _load(base: str, dtype: Any) -> Any:
    """Load a model as what its config says: a multimodal one keeps its other parts."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    whole = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(config.model_type)
    multimodal = whole is not None and whole in (config.architectures or [whole])
    kind: Any = AutoModelForImageTextToText if multimodal else AutoModelForCausalLM
    generation, _ = companions.generation_config(base)  # the base's own may be one that cannot be saved
    return kind.from_pretrained(base, dtype=dtype, trust_remote_code=False, generation_config=generation)
