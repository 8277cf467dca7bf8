"""`extra` reaches SFTConfig and LoraConfig; what cannot be passed on is refused by name."""

from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from semievol import config
from semievol.config import RunConfig
from semievol.errors import UserError
from semievol.runtime import processor
from semievol.trainers import arguments, worker
from semievol.trainers.base import TrainSpec, passes
from tests.support import bases

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
    assert (sft.seed, sft.learning_rate, sft.gradient_accumulation_steps, sft.max_steps) == (3, 1e-4, 1, -1)
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
        ("trainer.extra.bf16=true", r"^trainer\.extra\.bf16: .* use trainer\.dtype$"),
        (
            "warmup.lora.extra.layers_to_transform=[1]",
            r"^warmup\.lora\.extra\.layers_to_transform: .* use warmup\.lora\.layers$",
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


def test_upper_layers_are_those_of_the_language_model(tmp_path: Path) -> None:
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")

    def trained(folder: Path, *overrides: str) -> set[str]:
        config = configured(*overrides).warmup
        model = worker._load(str(folder), torch.float32)
        adapted = peft.get_peft_model(model, arguments.lora("warmup", config, model))
        return {name.split(".lora_A")[0].split("model.", 2)[2] for name in adapted.state_dict() if "lora_A" in name}

    deep = bases.write(tmp_path / "deep", num_hidden_layers=12)
    every = trained(deep)
    upper = trained(deep, "warmup.lora.layers=3")
    assert len(every) == 12 * 7 and upper == {name for name in every if name.split(".")[2] in ("9", "10", "11")}
    assert trained(deep, "warmup.lora.layers=99") == every
    queries = trained(deep, "warmup.lora={layers: 1, targets: [q_proj]}")
    assert queries == {"model.layers.11.self_attn.q_proj"}
    seeing = trained(bases.write_multimodal(tmp_path / "seeing"), "warmup.lora.layers=1")
    assert len(seeing) == 7 and all("language_model" in name for name in seeing)


def test_the_precision_is_what_the_processor_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    supported, faster = {"amx_tile": False, "avx512_bf16": False}, True
    for name in supported:
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: supported[name], raising=False)
    monkeypatch.setattr(processor, "_seconds", lambda x, w: 0.5 if (x.dtype == torch.bfloat16) == faster else 1.0)

    def auto(use_gpu: bool = False) -> str:
        processor.multiplies_bfloat16.cache_clear()
        return arguments.precision("auto", use_gpu)

    assert (auto(), auto(use_gpu=True)) == ("float32", "bfloat16")
    supported["amx_tile"] = True
    assert auto() == "bfloat16"
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")  # a torch that does not know it
    assert auto() == "float32"
    supported["avx512_bf16"] = True
    assert auto() == "bfloat16"
    faster = False
    assert auto() == "float32"
    processor.multiplies_bfloat16.cache_clear()
    assert [arguments.precision(given, True) for given in ("float32", "bfloat16")] == ["float32", "bfloat16"]


def test_few_rows_are_passed_often() -> None:
    assert [passes(rows) for rows in (1, 40, 64, 128, 452, 640, 10**6)] == [20, 20, 20, 10, 3, 2, 2]
    run = configured("finetune.epochs=2")
    assert TrainSpec("m", "out", run.warmup, seed=3).settled(128).config.epochs == 10.0
    assert TrainSpec("m", "out", run.finetune, seed=3).settled(128).config is run.finetune


def test_the_names_that_are_refused_are_those_of_the_libraries() -> None:
    def names(target: Any) -> set[str]:
        return {field.name for field in fields(target)}

    assert set(chain.from_iterable(arguments._SFT_KEYS.values())) <= names(SFTConfig)
    assert set(arguments._LORA_KEYS) <= names(LoraConfig)
    assert names(SFTConfig) | names(LoraConfig) >= arguments._OURS
