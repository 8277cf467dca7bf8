"""Compare `benchmarks.gpu.many` with transformers, PEFT and torch's AdamW: losses of two trainings, likelihoods of labels.

    python -m benchmarks.gpu.check MODEL.gguf

Prints one JSON object as its last line.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_schedule_with_warmup

from benchmarks.gpu.many import LINEARS, Adapters, Example, Job, Llama, Settings, likelihoods, train

_NAMES = {name: f"self_attn.{name}_proj" for name in "qkvo"}
_NAMES |= {name: f"mlp.{name}_proj" for name in ("gate", "up", "down")}
_NORMS = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm"}


def reference(model: Llama) -> LlamaForCausalLM:
    width, layer = model.embedding.shape[1], model.layers[0]
    config = LlamaConfig(
        vocab_size=len(model.embedding),
        hidden_size=width,
        intermediate_size=len(layer["gate"]),
        num_hidden_layers=len(model.layers),
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        rope_theta=model.rope,
        rms_norm_eps=model.eps,
        tie_word_embeddings=True,
    )
    state = {"model.embed_tokens.weight": model.embedding, "lm_head.weight": model.embedding}
    state["model.norm.weight"] = model.norm
    for number, weights in enumerate(model.layers):
        for name, theirs in (_NAMES | _NORMS).items():
            state[f"model.layers.{number}.{theirs}.weight"] = weights[name]
    net = LlamaForCausalLM(config).to(model.embedding.device)
    net.load_state_dict(state)
    return net.eval()


def peft_losses(net: Any, job: Job, number: int, count: list[int], model: Llama, settings: Settings) -> list[float]:
    first = len(model.layers) - settings.layers
    targets = [f"{name}_proj" for name in LINEARS]
    layers = list(range(first, len(model.layers)))
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, target_modules=targets, layers_to_transform=layers,
        layers_pattern="layers", task_type="CAUSAL_LM",
    )  # fmt: skip
    net = get_peft_model(net, config)
    fresh = Adapters(model, count, rank=settings.rank, alpha=settings.alpha, layers=settings.layers)
    for place, pairs in enumerate(fresh.of):
        for name, (a, _) in pairs.items():
            module = net.get_submodule(f"base_model.model.model.layers.{first + place}.{_NAMES[name]}")
            module.lora_A["default"].weight.data.copy_(a[number].detach())
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=job.learning_rate, weight_decay=0)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(settings.warmup * job.steps), job.steps)
    losses = []
    for rows in job.order(settings.batch):
        examples = [job.examples[row] for row in rows if row >= 0]
        longest = max(len(e.ids) for e in examples)
        ids = torch.tensor([e.ids + [0] * (longest - len(e.ids)) for e in examples])
        wanted = torch.full_like(ids, -100)
        for place, example in enumerate(examples):
            end = len(example.ids)
            wanted[place, end - len(example.targets) : end] = torch.tensor(example.ids[-len(example.targets) :])
        loss = net(input_ids=ids.to(net.device), labels=wanted.to(net.device)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, rng = Llama.from_gguf(sys.argv[1], device, torch.float32), np.random.default_rng(0)

    def example() -> Example:
        answer = rng.integers(100, 40000, rng.integers(1, 4)).tolist()
        ids = rng.integers(100, 40000, rng.integers(4, 20)).tolist() + answer
        return Example(ids, [{token: 1.0} for token in answer])

    jobs = [Job([example() for _ in range(n)], 3 + n, steps, rate) for n, steps, rate in ((11, 8, 1e-3), (5, 5, 2e-3))]
    settings = Settings(batch=4)
    _, ours = train(model, jobs, settings)
    seeds, differences = [job.seed for job in jobs], []
    for number, job in enumerate(jobs):
        losses = peft_losses(reference(model), job, number, seeds, model, settings)
        differences += [abs(a - b) / b for a, b in zip(ours[: job.steps, number].tolist(), losses, strict=True)]
    prompts = [rng.integers(100, 40000, n).tolist() for n in (5, 9, 12)]
    labels = [[7, 8, 9], [7, 8], [11], [12, 13]]
    shares, net = likelihoods(model, None, prompts, labels), reference(model)
    for prompt, row in zip(prompts, shares, strict=True):
        sums = []
        for label in labels:
            with torch.no_grad():
                logs = net(input_ids=torch.tensor([prompt + label], device=device)).logits[0].log_softmax(-1)
            sums.append(sum(logs[len(prompt) - 1 + place, token].item() for place, token in enumerate(label)))
        differences.append(float(np.abs(torch.tensor(sums).softmax(-1).numpy() - row).max()))
    print(json.dumps({"losses": ours[:, 0].tolist(), "largest_difference": max(differences)}))


if __name__ == "__main__":
    main()
