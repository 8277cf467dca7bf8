"""Pretrain the demo's base model: a Llama of about one million parameters, in a few minutes on two cores.

The demo runs real training and inference without a network, so it cannot download a model. This one knows the support
desk's language and how to answer a multiple-choice question. It has never seen the routing of tickets.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from semievol.demo.corpus import prose, task

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ("<|pad|>", "<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content']"
    " + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
VOCABULARY = 2048
STEPS = 500
PROSE_ROWS, TASK_ROWS = 2, 16
EXAMPLES_EVERY = 8
ONE_KIND_UNTIL = 0.5
PEAK_LR = 2e-3
TEXT_WEIGHT = 0.5
IGNORED = -100


def build_base_model(folder: Path, *, seed: int, log: Callable[[str], None] = print) -> None:
    """Train tokenizer and model and save both for `from_pretrained`. A fixed number of steps makes it reproducible."""
    import torch

    torch.manual_seed(seed)
    rng = Random(f"base-{seed}")
    tokenizer = _train_tokenizer(rng)
    model = _make_model(tokenizer)
    log(f"base model: {model.num_parameters() / 1e6:.1f} M parameters, {len(tokenizer)} tokens, {STEPS} steps")
    _pretrain(model, tokenizer, rng=rng, log=log)
    _be_quiet()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _be_quiet() -> None:
    """Keep what saving prints out of the demo's output: a progress bar, and DeepSpeed's warning that there is no GPU."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


def _train_tokenizer(rng: Random) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = [prose(rng) for _ in range(3000)]
    texts += ["\n".join(message["content"] for message in task(rng, examples=0, filing=0.5)) for _ in range(1000)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|bos|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE,
    )


def _make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=False,  # so that an adapter on the embeddings merges exactly
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def _pretrain(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, rng: Random, log: Callable[[str], None]
) -> None:
    """Train on the next-token loss of all text, plus the loss of the answers, which are few tokens among the prose."""
    import torch
    from transformers import get_cosine_schedule_with_warmup

    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = get_cosine_schedule_with_warmup(optimizer, STEPS // 20, STEPS)
    started = time.monotonic()
    model.train()
    for step in range(1, STEPS + 1):
        # One kind of task first: if all kinds start together, the model learns none of them in this time.
        mixed = step > STEPS * ONE_KIND_UNTIL
        examples = rng.randint(1, 3) if mixed and step % EXAMPLES_EVERY == 0 else 0
        inputs, text, answers = _batch(tokenizer, rng=rng, examples=examples, filing=0.7 if mixed else 1.0)
        logits = model(input_ids=inputs).logits[:, :-1].flatten(0, 1)
        text_loss = torch.nn.functional.cross_entropy(logits, text[:, 1:].flatten())
        answer_loss = torch.nn.functional.cross_entropy(logits, answers[:, 1:].flatten(), reduction="sum") / TASK_ROWS
        (TEXT_WEIGHT * text_loss + answer_loss).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % (STEPS // 10) == 0:
            losses = f"text {text_loss.item():.2f}, answers {answer_loss.item():.2f}"
            log(f"base model: step {step}, {losses}, {time.monotonic() - started:.0f} s")
    model.eval()


def _batch(
    tokenizer: PreTrainedTokenizerFast, *, rng: Random, examples: int, filing: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return token ids of prose and tasks, the labels of all text, and the labels of the tasks' answers only."""
    import torch

    rows = [(tokenizer.encode(tokenizer.bos_token + prose(rng) + tokenizer.eos_token), 0) for _ in range(PROSE_ROWS)]
    for _ in range(TASK_ROWS):
        messages = task(rng, examples=examples, filing=filing)
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template(messages, return_dict=False)
        rows.append((whole, len(whole) - len(prompt)))
    tokens = [torch.tensor(ids) for ids, _ in rows]
    answers = [torch.tensor([IGNORED] * (len(ids) - tail) + ids[len(ids) - tail :]) for ids, tail in rows]
    # Padding is on the right, where causal attention does not see it, so no mask is needed.
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    inputs = pad(tokens, padding_value=float(tokenizer.pad_token_id))
    return inputs, pad(tokens, padding_value=IGNORED), pad(answers, padding_value=IGNORED)
