"""Trainers behind one small interface: DeepSpeed on the workers of a cluster, or the fine-tuning API of an endpoint."""

from semievol.config import RunConfig
from semievol.trainers.base import Trainer


def load(config: RunConfig) -> Trainer:
    """Return the trainer of `trainer.kind`."""
    if config.trainer.kind == "openai":
        from semievol.trainers.openai import OpenAITrainer

        return OpenAITrainer(config.trainer, config.engine, run=config.name, all_turns=config.task.all_turns)
    from semievol.trainers.local import LocalTrainer

    extras = {"trainer.extra": config.trainer.extra}
    extras |= {f"{stage}.lora.extra": getattr(config, stage).lora.extra for stage in ("warmup", "finetune")}
    return LocalTrainer(config.resources.train, extras, config.trainer.dtype)
