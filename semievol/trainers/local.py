"""Supervised fine-tuning: TRL's SFTTrainer with LoRA and DeepSpeed, on the workers of a Ray Train TorchTrainer."""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from semievol.config import TrainConfig, TrainResources
from semievol.data import storage
from semievol.engines.chat_template import load_tokenizer
from semievol.errors import UserError
from semievol.runtime import cluster
from semievol.runtime.progress import Emit, reporting

ADAPTER, MODEL, METRICS = "adapter", "model", "metrics.json"
NAMED = "model.json"  # instead of weights: {"model": the name of a model at an endpoint} (semievol.trainers.openai)
_RETRIES = 2  # after the loss of a worker; announced preemptions are repeated by Ray without a limit


@dataclass(frozen=True)
class TrainSpec:
    """One fine-tuning."""

    rows: str  # URI of a folder of Parquet parts in the schema `TRAINING`, plus `quarantine_reason`
    base: str  # URI, folder or hub id of the weights to start from
    out: str  # URI: `adapter/` and the merged `model/` are written there, safetensors both
    config: TrainConfig
    seed: int
    use_gpu: bool  # what was reserved, not what the machine has


def trained(folder: str) -> str:
    """What a training stage made, as an engine loads it: the URI of the merged weights, or the name at an endpoint."""
    named = storage.join(folder, NAMED)
    return str(json.loads(storage.read_text(named))["model"]) if storage.exists(named) else storage.join(folder, MODEL)


def train(stage: str, spec: TrainSpec, resources: TrainResources, row_count: int, emit: Emit) -> dict[str, Any]:
    """Fine-tune and return the metrics of rank 0: steps, final loss, the loss curve, tokens, seconds.

    Raises:
        ray.train.TrainingFailedError: a worker raised, or workers were lost more often than is retried.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchTrainer

    filesystem, path = storage.resolve(storage.join(spec.out, "_ray_train"))
    steps = round(row_count * spec.config.epochs / spec.config.batch_size)
    for attempt in range(1 + _RETRIES):
        with reporting(stage, steps, emit) as progress:
            trainer = TorchTrainer(
                _worker,
                train_loop_config={"spec": spec, "progress": progress},
                scaling_config=ScalingConfig(
                    num_workers=resources.workers,
                    use_gpu=resources.num_gpus > 0,
                    resources_per_worker=_per_worker(resources),
                ),
                run_config=RunConfig(
                    name=f"train-{attempt}",
                    storage_path=path,
                    storage_filesystem=filesystem,
                    failure_config=FailureConfig(max_failures=0),
                ),
            )
            try:
                with _interruptible():
                    trainer.fit()
                break
            except WorkerGroupError as error:
                for failure in error.worker_failures.values():
                    if mendable := cluster.user_error(failure):
                        raise mendable from None
                # Ray's max_failures would also repeat what fails by itself each time; only a lost worker is worth it.
                lost = any(_is_loss(failure) for failure in error.worker_failures.values())
                if not lost or attempt == _RETRIES:
                    raise
    storage.delete(storage.join(spec.out, "_ray_train"))
    metrics: dict[str, Any] = json.loads(storage.read_text(storage.join(spec.out, METRICS)))
    return metrics


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ray Train sets a handler of its own for Ctrl-C, which ends the process as if all were well, and leaves it there."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, before)


def _is_loss(failure: BaseException) -> bool:
    """Whether a worker failed because it (or its node) is gone, and not because of what it ran."""
    from ray.exceptions import RayActorError

    # Ray Train wraps the death of a worker: WorkerHealthCheckFailedError.health_check_failure is what Ray said.
    return isinstance(getattr(failure, "health_check_failure", failure), RayActorError)


def _per_worker(resources: TrainResources) -> dict[str, float]:
    return {"CPU": resources.num_cpus} | ({"GPU": resources.num_gpus} if resources.num_gpus else {})


def _worker(arguments: dict[str, Any]) -> None:
    """What each rank runs."""
    import ray.train
    from trl import SFTTrainer

    spec, progress = arguments["spec"], arguments["progress"]
    rank = ray.train.get_context().get_world_rank()
    world = ray.train.get_context().get_world_size()
    base = storage.local_copy(spec.base) if "://" in spec.base else spec.base
    _check_targets(base, spec.config.lora.targets)
    if not spec.use_gpu:
        _score_responses_only()
        _compile_nothing()
    with tempfile.TemporaryDirectory(prefix="semievol-train-") as scratch:
        args = _arguments(spec, world, scratch)  # before the weights: under ZeRO-3 it decides how they are loaded
        trainer = SFTTrainer(
            model=_load(base, spec.use_gpu),
            args=args,
            train_dataset=_dataset(spec.rows, scratch),
            processing_class=load_tokenizer(base),
            peft_config=_lora(spec.config),
            callbacks=[_progress_callback(progress)] if rank == 0 else None,
        )
        output = trainer.train()
        adapter = Path(scratch) / ADAPTER
        trainer.save_model(str(adapter))  # every rank: ZeRO-3 gathers the weights from all
        if rank == 0:
            _publish(base, spec, adapter, Path(scratch) / MODEL)
            metrics = _metrics(output, trainer.state)
            storage.write_text(storage.join(spec.out, METRICS), json.dumps(metrics))


def _score_responses_only() -> None:
    """Keep prompts out of the projection to the vocabulary on a CPU too.

    Where there is no Triton, TRL 1.16 projects every position and masks the loss after it, for compilers that want
    fixed shapes (trl.trainer.utils.add_fused_lm_head). Eager torch needs none, and the rest was 45 % of a step here.
    """
    from trl.trainer import utils

    utils._use_triton = lambda device: True


def _compile_nothing() -> None:
    """Keep a compiler off every CPU node, and a minute and a half off its first training.

    DeepSpeed 0.19 builds a shared-memory all-reduce when it starts on a CPU, which only inference calls
    (deepspeed.comm.torch.TorchBackend).
    """
    import deepspeed

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


def _load(base: str, use_gpu: bool) -> Any:
    """The weights in full precision on a CPU (bf16 arithmetic is slow there), in bf16 on an accelerator."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if use_gpu else torch.float32
    return AutoModelForCausalLM.from_pretrained(base, dtype=dtype, trust_remote_code=False)


def _dataset(rows: str, scratch: str) -> Any:
    """The tokens of the usable rows, memory-mapped, in an order that does not depend on how they were written."""
    import pyarrow.compute as pc
    from datasets import load_dataset

    files = [str(file) for file in sorted(Path(storage.local_copy(rows)).glob("*.parquet"))]
    usable = pc.field("quarantine_reason").is_null()
    columns = ["input_ids", "labels"]
    dataset = load_dataset(
        "parquet", data_files=files, split="train", cache_dir=scratch, filters=usable, columns=["row_id", *columns]
    )
    return dataset.sort("row_id").select_columns(columns)


def _arguments(spec: TrainSpec, world: int, scratch: str) -> Any:
    from trl import SFTConfig

    config, gpu = spec.config, spec.use_gpu
    return SFTConfig(
        output_dir=scratch,
        seed=spec.seed,
        data_seed=spec.seed,
        num_train_epochs=config.epochs,
        learning_rate=config.learning_rate,
        lr_scheduler_type=config.scheduler,
        warmup_steps=config.warmup_ratio,  # below 1 it is a share of the steps
        weight_decay=config.weight_decay,
        per_device_train_batch_size=config.per_device_batch_size,
        gradient_accumulation_steps=config.batch_size // (config.per_device_batch_size * world),
        max_length=config.max_length,
        dataset_kwargs={"skip_prepare_dataset": True},  # they are tokens already (semievol.engines.chat_template)
        gradient_checkpointing=gpu,
        bf16=gpu,
        use_cpu=not gpu,
        deepspeed=deepspeed_config(config.zero_stage),
        logging_steps=5,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        include_num_input_tokens_seen=True,
    )


def deepspeed_config(zero_stage: int) -> dict[str, Any]:
    """DeepSpeed's JSON; "auto" values are filled in by transformers from the training arguments."""
    return {
        "zero_optimization": {"stage": zero_stage},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        # torch's own AdamW, sharded by ZeRO: DeepSpeed's CPU optimizer would want a compiler on every node.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def _lora(config: TrainConfig) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules="all-linear" if config.lora.targets == ["all-linear"] else config.lora.targets,
        task_type="CAUSAL_LM",
    )


def _check_targets(base: str, targets: list[str]) -> None:
    """An adapter on one of two tied matrices changes both when it is merged, and the merged model is another one.

    Raises:
        UserError: the word vectors are tied to the output layer, and one of them is a target.
    """
    from transformers import AutoConfig

    tied = AutoConfig.from_pretrained(base, trust_remote_code=False).tie_word_embeddings
    if tied and (both := {"embed_tokens", "lm_head"} & set(targets)):
        raise UserError(
            f"lora.targets: {', '.join(sorted(both))} of this model is tied (tie_word_embeddings), so an adapter on it "
            f"cannot be merged into the weights. Take it out of warmup.lora.targets and finetune.lora.targets"
        )


def _progress_callback(progress: Any) -> Any:
    from transformers import TrainerCallback

    class Report(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            progress.add.remote(1)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            if logs and "loss" in logs:
                progress.add.remote(0, f"loss {float(logs['loss']):.3f}")

    return Report()


def _publish(base: str, spec: TrainSpec, adapter: Path, merged: Path) -> None:
    """Upload the adapter, and the base with the adapter merged in, which is what bulk inference runs on."""
    from peft import PeftModel
    from transformers import AutoConfig

    for pickle in adapter.glob("*.bin"):
        pickle.unlink()  # training_args.bin: a pickle that nobody needs
    settings = adapter / "adapter_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"base_model_name_or_path": spec.base}, indent=2))
    model = PeftModel.from_pretrained(_load_plain(base), str(adapter)).merge_and_unload()
    dtype = AutoConfig.from_pretrained(base, trust_remote_code=False).dtype
    model = model.to(dtype) if dtype is not None else model
    model.save_pretrained(str(merged), safe_serialization=True)
    load_tokenizer(base).save_pretrained(str(merged))
    (merged / "training.json").write_text(json.dumps(asdict(spec), indent=1))
    storage.upload(str(adapter), storage.join(spec.out, ADAPTER))
    storage.upload(str(merged), storage.join(spec.out, MODEL))


def _load_plain(base: str) -> Any:
    """The base in full precision, outside of any DeepSpeed context, for an exact merge."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()  # else ZeRO-3 would load the weights sharded
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, trust_remote_code=False)
