"""Training rows against TRL, which makes the same of them in each worker."""

from pathlib import Path

from semievol.config import TaskConfig
from semievol.engines.chat_template import ChatTemplate, load_tokenizer
from semievol.method.prompts import completion, messages
from semievol.tasks import Row, make
from tests.support.shared import MODEL, needs_model

pytestmark = needs_model


def test_rows_are_tokenized_as_trl_does_it(tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    task = make(TaskConfig())
    questions = ["Profit rose by a third.", "Sales fell.", "هل ارتفع الربح؟ 📈"]
    rows = [Row(question, ["negative", "neutral", "positive"], None, None) for question in questions]
    exchanges = [
        {"prompt": messages(task, row), "completion": completion(task, answer)}
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
        assert encoded == {name: expected[name] for name in ("input_ids", "labels")}
        assert tokenizer.decode([token for token in encoded["labels"] if token != -100]).startswith("Answer: ")
