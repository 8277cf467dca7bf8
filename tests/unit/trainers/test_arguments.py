"""`extra` reaches SFTConfig and LoraConfig; what cannot be passed on is refused by name."""

from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from semievol import config
from semievol.config import RunConfig
from semievol.errors import UserError
from semievol.trainers import arguments
from semievol.trainers.base import TrainSpec

LoraConfig = pytest.importorskip("peft").LoraConfig  # the second Python's unit tests do without
SFTConfig = pytest.importorskip("trl").SFTConfig
MINIMAL = "{name: x, model: {base: m}, data: {labeled: l, unlabeled: u, test: t}}"


def configured(*overrides: str) -> RunConfig:
    return config.loads(MINIMAL, list(overrides), "c.yaml")


def check(run: RunConfig) -> None:
    extras = {"warmup.lora.extra": run.warmup.lora.extra, "finetune.lora.extra": run.finetune.lora.extra}
    arguments.check(extras | {"trainer.extra": run.trainer.extra})


def test_arguments_reach_the_libraries(tmp_path: Path) -> None:
    run = configured(
        "trainer.extra={neftune_noise_alpha: 5, optim: adafactor, logging_steps: 1, report_to: tensorboard}",
        "warmup.lora.extra={use_dora: true, use_rslora: true}",
        "warmup.lora.rank=4",
    )
    check(run)
    spec = TrainSpec("m", "out", run.warmup, seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arguments, "deepspeed_config", lambda stage, autocast: None)  # it wants a process group
        sft = arguments.sft(spec, run.trainer.extra, 2, str(tmp_path), use_gpu=False, dtype="float32")
    assert (sft.neftune_noise_alpha, sft.optim, sft.logging_steps) == (5, "adafactor", 1)
    assert (sft.seed, sft.learning_rate, sft.gradient_accumulation_steps) == (3, 1e-4, 1)
    lora = arguments.lora("warmup", run.warmup, None)
    assert (lora.use_dora, lora.use_rslora, lora.r, lora.target_modules) == (True, True, 4, "all-linear")
    assert not arguments.lora("finetune", run.finetune, None).use_dora


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "trainer.extra.use_lger_kernel=true",
            r"^trainer\.extra\.use_lger_kernel: SFTConfig of TRL [\d.]+ has no such argument; did you mean use_liger_kernel\?$",
        ),
        ("trainer.extra.zzz=1", r"^trainer\.extra\.zzz: SFTConfig of TRL [\d.]+ has no such argument$"),
        (
            "trainer.extra.learning_rate=1",
            r"^trainer\.extra\.learning_rate: .* use warmup\.learning_rate and finetune\.learning_rate$",
        ),
        ("trainer.extra.seed=1", r"^trainer\.extra\.seed: .* use seed$"),
        ("trainer.extra.output_dir=here", r"^trainer\.extra\.output_dir: the trainer sets this itself"),
        ("trainer.extra.packing=true", r"^trainer\.extra\.packing: the trainer sets this itself"),
        ("finetune.lora.extra.r=1", r"^finetune\.lora\.extra\.r: .* use finetune\.lora\.rank$"),
        (
            "warmup.lora.extra.use_dorra=true",
            r"^warmup\.lora\.extra\.use_dorra: LoraConfig of PEFT [\d.]+ .*; did you mean use_dora\?$",
        ),
        ("warmup.lora.extra.task_type=x", r"^warmup\.lora\.extra\.task_type: the trainer sets this itself"),
    ],
)
def test_arguments_that_cannot_be_passed_on_are_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(configured(override))


def test_a_value_that_a_library_refuses_names_the_key(tmp_path: Path) -> None:
    run = configured("trainer.extra.optim=magic", "warmup.lora.extra={bias: none, init_lora_weights: magic}")
    with pytest.raises(UserError, match=r"^trainer\.extra: SFTConfig does not take optim as given: .*magic"):
        arguments.sft(
            TrainSpec("m", "out", run.warmup, seed=3),
            run.trainer.extra,
            2,
            str(tmp_path),
            use_gpu=False,
            dtype="float32",
        )


def test_the_names_that_are_refused_are_those_of_the_libraries() -> None:
    def names(target: Any) -> set[str]:
        return {field.name for field in fields(target)}

    assert set(chain.from_iterable(arguments._SFT_KEYS.values())) <= names(SFTConfig)
    assert set(arguments._LORA_KEYS) <= names(LoraConfig)
    assert names(SFTConfig) | names(LoraConfig) >= arguments._OURS
