"""The loss against a computation by hand from all logits, with plain transformers around it."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("trl")
pytest.importorskip("peft")

import peft
import torch
import transformers
from torch.nn.functional import cross_entropy

from semievol.config.training import FinetuneConfig
from semievol.trainers import arguments, loss
from semievol.trainers.base import TrainSpec
from tests.support import bases
from tests.support.chat_templates import FAMILIES

NO = -100
HARD = [
    {"input_ids": [5, 6, 7, 8, 9, 10], "labels": [NO, NO, NO, NO, 9, 10]},
    {"input_ids": [11, 12, 13], "labels": [NO, 12, 13]},
    {"input_ids": [14, 15, 16, 17], "labels": [NO, NO, NO, NO]},
]
SOFT = [{"place": 4, "tokens": [9, 20, 21], "shares": [0.6, 0.3, 0.1]}, {"place": 5, "tokens": [10], "shares": [0.6]}]
SURE = [{"place": 4, "tokens": [9], "shares": [1.0]}]
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def gemma() -> Any:
    """Return a model that caps its logits behind the head."""
    torch.manual_seed(0)
    sizes = {**SIZES, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 300}
    return transformers.Gemma2ForCausalLM(transformers.Gemma2Config(final_logit_softcapping=0.05, **sizes))


def llama(tmp_path: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(bases.write(tmp_path / "base"), dtype=torch.float32)


def trainer(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[Any], **more: Any) -> Any:
    from datasets import Dataset

    monkeypatch.setattr(arguments, "deepspeed_config", lambda stage, autocast: None)
    spec = TrainSpec(
        "m", "out", FinetuneConfig(epochs=2, per_device_batch_size=2), seed=3, steps=more.pop("steps", None)
    )
    args = arguments.sft(spec, more, 1, str(tmp_path), use_gpu=False, dtype="float32")
    lora = peft.LoraConfig(target_modules="all-linear", init_lora_weights=False)
    given = {"train_dataset": Dataset.from_list(rows), "processing_class": FAMILIES["chatml"].tokenizer()}
    return loss.sft_trainer(spec, model=model, args=args, peft_config=lora, **given)


def with_soft(soft: Any) -> list[dict[str, Any]]:
    return [HARD[0] | {"soft": soft}, *(row | {"soft": None} for row in HARD[1:])]


def by_hand(model: Any, soft: bool = False) -> Any:
    """Return the sum of the losses of HARD, row by row and without padding."""
    total = torch.zeros(())
    for row in HARD:
        logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
        total = total + cross_entropy(logits, torch.tensor(row["labels"][1:]), reduction="sum")
        if soft and row is HARD[0]:
            at = logits.log_softmax(-1)
            total = total + at[3, 9] - (0.6 * at[3, 9] + 0.3 * at[3, 20] + 0.1 * at[3, 21]) + 0.4 * at[4, 10]
    return total


def gradients(trainer: Any, value: Any) -> list[Any]:
    trainer.model.zero_grad()
    value.backward()
    return [weights.grad.clone() for _, weights in trainer.model.named_parameters() if weights.grad is not None]


@pytest.mark.parametrize("family", ["llama", "gemma"])
@pytest.mark.parametrize("soft", [None, SOFT, SURE])
def test_loss_and_gradients_are_those_of_all_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, soft: Any
) -> None:
    model = gemma() if family == "gemma" else llama(tmp_path)
    ours = trainer(model, tmp_path, monkeypatch, with_soft(soft))
    batch = ours.data_collator(with_soft(soft))
    widths: list[int] = []
    ours.model.get_output_embeddings().register_forward_hook(lambda _, given, logits: widths.append(logits.shape[1]))
    value = ours.compute_loss(ours.model, batch, num_items_in_batch=torch.tensor(7))
    assert widths == [4]  # of 3 x 6 positions
    expected = by_hand(ours.model, soft is SOFT) / 7
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    pairs = list(zip(gradients(ours, value), gradients(ours, expected), strict=True))
    assert pairs and all(torch.allclose(mine, theirs, rtol=1e-4, atol=1e-6) for mine, theirs in pairs)
    assert any(theirs.abs().max() > 1e-4 for _, theirs in pairs)


def test_arguments_of_trl_that_change_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama(tmp_path)
    smooth = trainer(model, tmp_path, monkeypatch, with_soft(None), label_smoothing_factor=0.1)
    value = smooth.compute_loss(smooth.model, smooth.data_collator(HARD[:1]))
    logits = smooth.model(torch.tensor([HARD[0]["input_ids"]])).logits[0, 3:5]
    assert value.item() == pytest.approx(cross_entropy(logits, torch.tensor([9, 10]), label_smoothing=0.1).item())
    dft = trainer(llama(tmp_path), tmp_path, monkeypatch, with_soft(None), loss_type="dft")
    value = dft.compute_loss(dft.model, dft.data_collator(HARD[:1]))
    scores = dft.model(torch.tensor([HARD[0]["input_ids"]])).logits[0, 3:5].log_softmax(-1)[[0, 1], [9, 10]]
    assert value.item() == pytest.approx(-(scores * scores.exp()).mean().item())
    assert dft.compute_loss(dft.model, dft.data_collator(HARD[2:])).item() == 0.0  # a batch without loss


def test_a_training_takes_its_steps_and_is_measured_on_other_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import Dataset

    ours = trainer(llama(tmp_path), tmp_path, monkeypatch, with_soft(SOFT), steps=5)
    assert ours.train().global_step == 5
    found = ours.held_out(Dataset.from_list(HARD))
    with torch.no_grad():
        assert found == {"held_out_loss": pytest.approx(by_hand(ours.model).item() / 4, abs=1e-5), "held_out_tokens": 4}
