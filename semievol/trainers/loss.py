"""The loss of a fine-tuning: cross-entropy at the tokens of the response, with one right token each or with shares of several.

The head of the model, which is as wide as the vocabulary, only runs at positions that carry loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from semievol.trainers.base import TrainSpec

_IGNORED = -100
_KERNELS = ("cuda", "xpu")  # on which TRL has a kernel that never holds all logits, which long responses need


def sft_trainer(spec: TrainSpec, **given: Any) -> Any:
    """Return TRL's SFTTrainer with this loss.

    Args:
        given: arguments of SFTTrainer.
    """
    from trl import SFTTrainer

    trainer = type("SFTTrainer", (_Loss, SFTTrainer), {})(**given)
    soft = getattr(spec.config, "targets", "hard") == "soft"
    trainer.uses_kernel = trainer.args.device.type in _KERNELS and not soft
    trainer.data_collator = _collator(trainer.data_collator)
    return trainer


class _Loss:
    """What the trainer does in its own way. `Any` stands for what SFTTrainer has."""

    uses_kernel: bool
    args: Any
    model: Any

    def compute_loss(
        self: Any, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the sum of the tokens' losses over the number of tokens in the step, which SFTTrainer does likewise."""
        if self.uses_kernel:
            inputs = {name: tensor for name, tensor in inputs.items() if name not in ("targets", "weights")}
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        losses, _, outputs = self.token_losses(model, inputs)
        tokens = losses.numel() if num_items_in_batch is None else int(num_items_in_batch)
        loss = losses.sum() / max(1, tokens)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # the gradients of all are averaged
        if self.aux_loss_enabled:  # of a mixture of experts: a mean over each micro-batch
            steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss / steps
        return (loss, outputs) if return_outputs else loss

    def token_losses(self: Any, model: Any, inputs: dict[str, Any]) -> tuple[Any, Any, Any]:
        """Return the loss of each token that carries one, the place of its row in the batch, and the model's outputs."""
        inputs = dict(inputs)
        taught = inputs.pop("labels")[:, 1:] != _IGNORED
        tokens, weights = (inputs.pop(name)[:, 1:][taught] for name in ("targets", "weights"))
        if self.aux_loss_enabled:
            inputs["output_router_logits"] = True
        # The model calls its head as ever, on fewer positions: what it does to logits behind it, such as a cap, stays.
        head = self.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, given: (given[0][:, :-1][taught][None],))
        try:
            outputs = model(**inputs, use_cache=False)
        finally:
            hook.remove()
        scores = outputs.logits[0].float().log_softmax(-1)
        losses = -(scores.gather(1, tokens) * weights).sum(1)
        if smoothing := self.args.label_smoothing_factor:
            losses = (1 - smoothing) * losses - smoothing * weights.sum(1) * scores.mean(1)
        if self.args.loss_type == "dft":
            losses = losses * (-losses.detach()).exp()
        return losses, taught.nonzero()[:, 0], outputs

    def held_out(self: Any, rows: Any) -> dict[str, Any]:
        """Return the mean loss of a response's token on rows that are not trained on, and how many tokens these are."""
        import torch

        model, totals = self.model_wrapped, torch.zeros(2, dtype=torch.float64)
        model.eval()
        for batch in self.get_eval_dataloader(rows):
            with torch.no_grad():
                losses, places, _ = self.token_losses(model, self._prepare_inputs(batch))
            of_rows = losses.new_zeros(len(batch["labels"]), 2)  # by rows, as the last batch repeats some
            of_rows.index_add_(0, places, torch.stack([losses, torch.ones_like(losses)], 1))
            totals += self.accelerator.gather_for_metrics(of_rows).sum(0).double().cpu()
        loss, tokens = totals.tolist()
        return {"held_out_loss": round(loss / max(1.0, tokens), 5), "held_out_tokens": int(tokens)}


def _collator(collate: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> Any:
    """Return a collator that adds to TRL's tensors `targets` and `weights`: which tokens may stand at each position."""

    def collated(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate(rows)
        soft = [(row, place) for row, example in enumerate(rows) for place in example.get("soft") or ()]
        width = max([1, *(len(place["tokens"]) for _, place in soft)])
        shape = (*batch["labels"].shape, width)
        targets, weights = batch["labels"].new_zeros(shape), batch["labels"].new_zeros(shape).float()
        targets[..., 0], weights[..., 0] = batch["labels"].clamp(min=0), 1.0
        for row, place in soft:
            several = len(place["tokens"])
            targets[row, place["place"], :several] = targets.new_tensor(place["tokens"])
            weights[row, place["place"]] = 0.0
            weights[row, place["place"], :several] = weights.new_tensor(place["shares"])
        return batch | {"targets": targets, "weights": weights}

    return collated
