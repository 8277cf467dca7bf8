"""Training rows against TRL, which makes the same of them in each worker; and a training with arguments of TRL's and PEFT's."""

import json
from math import log
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from semievol import config, trainers
from semievol.config import RunConfig
from semievol.data import storage
from semievol.data.tables import LABELED, SELECTED
from semievol.engines.chat_template import ChatTemplate, load_tokenizer
from semievol.errors import UserError
from semievol.method.prompts import Prompts
from semievol.runtime import cluster
from semievol.tasks import Row
from semievol.tasks.multiple_choice import MultipleChoice
from semievol.trainers.base import TrainSpec, trained
from semievol.trainers.render import Source, render
from tests.support.shared import MODEL, needs_model

pytestmark = needs_model
ANSWER = ["Answer", ":", " A", "<|end|>"]  # tokens that carry loss


def test_rows_are_tokenized_as_trl_does_it(tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    task = MultipleChoice()
    questions = ["Profit rose by a third.", "Sales fell.", "هل ارتفع الربح؟ 📈"]
    rows = [Row(question, ["negative", "neutral", "positive"], None, None) for question in questions]
    exchanges = [
        {"prompt": Prompts(task).messages(row), "completion": Prompts(task).completion(answer)}
        for row, answer in zip(rows, "CAC", strict=True)
    ]
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(MODEL),
        args=SFTConfig(output_dir=str(tmp_path), completion_only_loss=True, use_cpu=True, bf16=False, report_to=[]),
        train_dataset=Dataset.from_list(exchanges),
        processing_class=load_tokenizer(str(MODEL)),
    )
    tokenizer = load_tokenizer(str(MODEL))
    for exchange, expected in zip(exchanges, trainer.train_dataset, strict=True):
        encoded = ChatTemplate(tokenizer).exchange(exchange["prompt"], exchange["completion"])
        # TRL also trains the line break behind the end of the turn, which no engine asks for.
        assert encoded == {name: expected[name][:-1] for name in ("input_ids", "labels")}
        assert (
            tokenizer.decode(encoded["input_ids"][-1:]) == "<|end|>"
            and tokenizer.decode(expected["input_ids"][-1:]) == "\n"
        )
        assert tokenizer.decode([token for token in encoded["labels"] if token != -100]).startswith("Answer: ")


def test_arguments_of_trl_and_peft_reach_a_training(tmp_path: Path) -> None:
    """A name that PEFT does not have ends before training; NEFTune and rsLoRA need no code of ours."""
    import ray
    from peft import PeftConfig

    def configured(*overrides: str) -> RunConfig:
        minimal = f"{{name: x, model: {{base: {MODEL}}}, data: {{labeled: l, unlabeled: u, test: t}}}}"
        given = ["warmup.epochs=1", "warmup.batch_size=8", "resources.train.workers=1", "resources.local_num_cpus=2"]
        return config.loads(minimal, [*given, *overrides], "c.yaml")

    labeled = [
        {"row_id": i, "question": f"Profit {i}.", "options": ["up", "down"], "answer": "AB"[i % 2]} for i in range(16)
    ]
    storage.write_table(f"{tmp_path}/labeled/0.parquet", pa.Table.from_pylist(labeled, schema=LABELED))

    def train(name: str, *overrides: str, **more: Any) -> dict[str, Any]:
        run = configured(*overrides)
        spec = TrainSpec(str(MODEL), f"{tmp_path}/{name}", run.warmup, seed=1, **more)
        rendered = render([Source(f"{tmp_path}/labeled")], spec, Prompts(run.task), tokens=True)
        assert (rendered.came_in, rendered.usable, rendered.quarantined) == (16, 16, 0)
        return trainers.load(run).train("warmup", spec, rendered.usable, lambda *_: None)

    cluster.connect(configured())
    try:
        with pytest.raises(UserError, match=r"finetune\.lora\.extra\.use_dorra: .* did you mean use_dora\?"):
            train("refused", "finetune.lora.extra.use_dorra=true")
        extra = "trainer.extra={neftune_noise_alpha: 5, logging_steps: 1}"
        metrics = train("noisy", extra, "warmup.lora.extra.use_rslora=true")
        upper = ["warmup.lora.layers=2", "warmup.zero_stage=3", "trainer.dtype=bfloat16"]
        short = train("short", *upper, held_out=f"{tmp_path}/noisy/rows", steps=1)
        shares = [{"answer": "A", "share": 0.7}, {"answer": "B", "share": 0.3}]
        surely = [row | {"selected": True, "shares": shares, "justified": False} for row in labeled]
        storage.write_table(f"{tmp_path}/selected/0.parquet", pa.Table.from_pylist(surely, schema=SELECTED))
        run = configured("finetune.targets=soft", "finetune.epochs=auto", "finetune.batch_size=16")
        spec = TrainSpec(str(MODEL), f"{tmp_path}/soft", run.finetune, seed=1)
        source = Source(f"{tmp_path}/selected", selected_only=True, soft=True)
        rendered = render([source], spec, Prompts(run.task), tokens=True)
        soft = trainers.load(run).train("finetune", spec, rendered.usable, lambda *_: None)
    finally:
        ray.shutdown()
    assert (metrics["steps"], [step for step, _ in metrics["loss_curve"]]) == (2, [1, 2])
    assert "held_out_loss" not in metrics and metrics["epochs"] == 1.0
    assert (short["steps"], short["dtype"], short["held_out_tokens"]) == (1, "bfloat16", 16 * len(ANSWER))
    assert 0 < short["held_out_loss"] < 20
    assert PeftConfig.from_pretrained(f"{tmp_path}/short/adapter").layers_to_transform == [3, 4]
    assert (soft["steps"], soft["epochs"]) == (20, 20.0)
    assert -(0.7 * log(0.7) + 0.3 * log(0.3)) / len(ANSWER) < soft["loss"]  # the entropy of the shares
    assert PeftConfig.from_pretrained(f"{tmp_path}/noisy/adapter").use_rslora
    assert json.loads(Path(trained(f"{tmp_path}/noisy"), "config.json").read_text())["model_type"]
