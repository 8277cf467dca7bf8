"""Train many low-rank adapters of one Llama side by side: a step of all of them takes hardly longer than a step of one.

A study wants hundreds of short trainings of a small model, which alone leave a GPU idle. Here every adapter has rows of its
own in one large batch; the frozen weights multiply them all at once. The arithmetic is that of transformers, PEFT and AdamW
(`python -m benchmarks.gpu.check` compares the losses); needs torch and the package `gguf`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
_NAMES = {"attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_output": "o", "ffn_gate": "gate", "ffn_up": "up"}
_NAMES |= {"ffn_down": "down", "attn_norm": "norm1", "ffn_norm": "norm2"}
PAD = 0


@dataclass
class Llama:
    """Frozen weights. Linear weights have the shape (out, in)."""

    embedding: torch.Tensor
    norm: torch.Tensor
    layers: list[dict[str, torch.Tensor]]
    heads: int
    kv_heads: int
    rope: float
    eps: float

    @classmethod
    def from_gguf(cls, path: str, device: str, dtype: torch.dtype) -> Llama:
        """Load a GGUF file whose output matrix is tied to the embedding."""
        from gguf import GGUFReader
        from gguf.quants import dequantize

        reader = GGUFReader(path)

        def setting(name: str) -> Any:
            return next(f for key, f in reader.fields.items() if key.endswith(name)).contents()

        tensors = {
            t.name.removesuffix(".weight"): torch.from_numpy(dequantize(t.data, t.tensor_type).copy())
            for t in reader.tensors
        }
        heads, kv_heads = setting(".attention.head_count"), setting(".attention.head_count_kv")
        layers: list[dict[str, torch.Tensor]] = []
        for number in range(setting(".block_count")):
            layer = {ours: tensors[f"blk.{number}.{theirs}"] for theirs, ours in _NAMES.items()}
            layer |= {"q": _unpermuted(layer["q"], heads), "k": _unpermuted(layer["k"], kv_heads)}
            layers.append({name: weight.to(device, dtype) for name, weight in layer.items()})
        return cls(
            tensors["token_embd"].to(device, dtype),
            tensors["output_norm"].to(device, dtype),
            layers,
            heads,
            kv_heads,
            setting(".rope.freq_base"),
            setting(".layer_norm_rms_epsilon"),
        )


def _unpermuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo the order of rows that llama.cpp wants for its rotary embedding."""
    size = weight.shape[0] // heads
    return weight.reshape(heads, size // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


class Adapters:
    """Low-rank adapters of `count` models, in the upper `layers` layers, as PEFT begins them (A Kaiming-uniform, B zero)."""

    def __init__(self, model: Llama, seeds: Sequence[int], *, rank: int, alpha: int, layers: int) -> None:
        self.count, self.scale, self.first = len(seeds), alpha / rank, max(0, len(model.layers) - layers)
        self.parameters: list[torch.Tensor] = []
        self.of: list[dict[str, tuple[torch.Tensor, torch.Tensor]]] = []
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        for layer in model.layers[self.first :]:
            pairs = {}
            for name in LINEARS:
                outs, ins = layer[name].shape
                bound = 1 / math.sqrt(ins)
                a = torch.stack([(torch.rand(rank, ins, generator=g) * 2 - 1) * bound for g in draws])
                pairs[name] = (a.to(layer[name].device), torch.zeros(len(seeds), outs, rank, device=layer[name].device))
            self.of.append(pairs)
            self.parameters += [t.requires_grad_() for pair in pairs.values() for t in pair]

    def only(self, number: int) -> Adapters:
        """Return one of them, for inference."""
        one = object.__new__(Adapters)
        one.count, one.scale, one.first, one.parameters = 1, self.scale, self.first, []
        one.of = [
            {name: (a[number : number + 1].detach(), b[number : number + 1].detach()) for name, (a, b) in of.items()}
            for of in self.of
        ]
        return one


def hidden(
    model: Llama,
    ids: torch.Tensor,
    adapters: Adapters | None,
    *,
    positions: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the last hidden states, shape (models, rows, tokens, width), of right-padded ids (models, rows, tokens).

    Args:
        positions: of the tokens, shape (rows, tokens); else they count up.
        mask: which token (rows, 1, tokens, ...) sees which one (..., tokens); else all before it.
    """
    models, rows, length = ids.shape
    x = model.embedding[ids].view(models, rows * length, -1)
    size = model.layers[0]["q"].shape[0] // model.heads
    turns = model.rope ** (-torch.arange(0, size, 2, device=ids.device) / size)
    places = torch.arange(length, device=ids.device) if positions is None else positions[:, None]
    angles = places[..., None] * turns
    cos, sin = (torch.cat([f(angles), f(angles)], -1).to(x.dtype) for f in (torch.cos, torch.sin))
    first = adapters.first if adapters else len(model.layers)
    for number, layer in enumerate(model.layers):
        pairs = adapters.of[number - first] if adapters and number >= first else {}
        with torch.set_grad_enabled(torch.is_grad_enabled() and number >= first):
            scale = adapters.scale if adapters else 0.0
            x = _layer(model, layer, x, (models * rows, length), cos, sin, mask, pairs, scale)
    return _norm(x, model.norm, model.eps).view(models, rows, length, -1)


def _layer(
    model: Llama,
    layer: dict[str, torch.Tensor],
    x: torch.Tensor,
    shape: tuple[int, int],
    cos: torch.Tensor,
    sin: torch.Tensor,
    mask: torch.Tensor | None,
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]],
    scale: float,
) -> torch.Tensor:
    def linear(name: str, given: torch.Tensor) -> torch.Tensor:
        out = functional.linear(given, layer[name])
        if name in pairs:
            a, b = (t.to(given.dtype) for t in pairs[name])
            out = out + scale * (given @ a.mT) @ b.mT
        return out

    def split(of: torch.Tensor, heads: int) -> torch.Tensor:
        return of.view(*shape, heads, -1).transpose(1, 2)

    h = _norm(x, layer["norm1"], model.eps)
    q, k, v = (split(linear(n, h), c) for n, c in (("q", model.heads), ("k", model.kv_heads), ("v", model.kv_heads)))
    q, k = q * cos + _turned(q) * sin, k * cos + _turned(k) * sin
    k, v = (t.repeat_interleave(model.heads // model.kv_heads, dim=1) for t in (k, v))
    mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    x = x + linear("o", mixed.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))
    h = _norm(x, layer["norm2"], model.eps)
    return x + linear("down", functional.silu(linear("gate", h)) * linear("up", h))


def _norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def _turned(x: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return torch.cat([-x[..., half:], x[..., :half]], -1)


@dataclass(frozen=True)
class Example:
    """A training row: its tokens, and for each token of the response what it should be, with shares that sum to at most 1."""

    ids: list[int]  # prompt and response
    targets: list[dict[int, float]]  # of the last tokens


@dataclass(frozen=True)
class Job:
    """One training: its rows, the seed of its adapter and of its order."""

    examples: list[Example]
    seed: int
    steps: int
    learning_rate: float

    def order(self, batch: int) -> np.ndarray:
        """Return the rows of each step, shape (steps, batch); -1 where the last batch of an epoch is short, as in transformers."""
        rng, rows = np.random.default_rng(self.seed), list[np.ndarray]()
        short = -len(self.examples) % batch
        while sum(map(len, rows)) < self.steps * batch:
            rows.append(np.concatenate([rng.permutation(len(self.examples)), np.full(short, -1)]))
        return np.concatenate(rows)[: self.steps * batch].reshape(self.steps, batch)


@dataclass(frozen=True)
class Settings:
    """Of all jobs: AdamW, a cosine schedule after a linear warm-up, gradients clipped to a norm of 1."""

    batch: int = 8
    rank: int = 16
    alpha: int = 32
    layers: int = 12
    warmup: float = 0.1


def train(model: Llama, jobs: Sequence[Job], settings: Settings) -> tuple[Adapters, torch.Tensor]:
    """Train the jobs side by side; one that ends before the others stays as it is. Return the losses, shape (steps, jobs)."""
    device = model.embedding.device
    adapters = Adapters(
        model, [job.seed for job in jobs], rank=settings.rank, alpha=settings.alpha, layers=settings.layers
    )
    packed, sizes = _packed(jobs)
    packed = {name: torch.from_numpy(array).to(device) for name, array in packed.items()}
    steps = max(job.steps for job in jobs)
    order = np.full((steps, len(jobs), settings.batch), -1)
    for number, job in enumerate(jobs):
        order[: job.steps, number] = job.order(settings.batch)
    lengths = np.array([[sizes[number][row] for number, rows in enumerate(at) for row in rows] for at in order])
    widths = -(-lengths.max(1) // 8) * 8
    rates = _rates(steps, jobs, settings).to(device)
    places = torch.from_numpy(order).to(device)
    own = torch.arange(len(jobs), device=device)[:, None]
    moments = [[torch.zeros_like(p) for p in adapters.parameters] for _ in range(2)]
    kept = []
    for step in range(steps):
        rows = {name: array[own, places[step]] for name, array in packed.items()}
        rows["ids"] = rows["ids"][..., : widths[step]]
        losses = _losses(model, adapters, rows)
        losses.sum().backward()
        _adamw(adapters.parameters, *moments, rates[step], step + 1)
        kept.append(losses.detach())
    return adapters, torch.stack(kept).cpu()


def _packed(jobs: Sequence[Job]) -> tuple[dict[str, np.ndarray], list[list[int]]]:
    """Return the rows of all jobs as arrays (jobs, rows + 1, ...), the last row of each job empty, and their lengths."""
    flat = [example for job in jobs for example in job.examples]
    length, answer = max(len(e.ids) for e in flat), max(len(e.targets) for e in flat)
    most, rows = max(len(t) for e in flat for t in e.targets), 1 + max(len(job.examples) for job in jobs)
    ids = np.full((len(jobs), rows, -(-length // 8) * 8), PAD, dtype=np.int32)
    at = np.zeros((len(jobs), rows, answer), dtype=np.int64)
    wanted = np.zeros((len(jobs), rows, answer, most), dtype=np.int64)
    shares, tokens = np.zeros(wanted.shape, np.float32), np.zeros((len(jobs), rows), np.float32)
    for number, job in enumerate(jobs):
        for row, example in enumerate(job.examples):
            ids[number, row, : len(example.ids)] = example.ids
            start = len(example.ids) - len(example.targets) - 1
            tokens[number, row] = len(example.targets)
            for place, target in enumerate(example.targets):
                at[number, row, place] = start + place
                wanted[number, row, place, : len(target)] = list(target)
                shares[number, row, place, : len(target)] = list(target.values())
    sizes = [[*(len(e.ids) for e in job.examples), *[0] * (rows - len(job.examples))] for job in jobs]
    return {"ids": ids, "at": at, "wanted": wanted, "shares": shares, "tokens": tokens}, sizes


def _rates(steps: int, jobs: Sequence[Job], settings: Settings) -> torch.Tensor:
    """Return the learning rates, shape (steps, jobs); 0 after a job's end."""
    step = torch.arange(steps)[:, None]
    lengths = torch.tensor([job.steps for job in jobs])[None]
    warm = torch.ceil(settings.warmup * lengths)
    done = (step - warm) / (lengths - warm).clamp(min=1)
    rate = torch.where(step < warm, step / warm.clamp(min=1), 0.5 * (1 + torch.cos(math.pi * done.clamp(0, 1))))
    return torch.tensor([job.learning_rate for job in jobs]) * torch.where(step < lengths, rate, 0.0)


def _adamw(
    parameters: list[torch.Tensor], first: list[torch.Tensor], second: list[torch.Tensor], rates: torch.Tensor, t: int
) -> None:
    """AdamW without decay, for each model by itself, its gradients clipped to a norm of 1."""
    with torch.no_grad():
        gradients = [p.grad for p in parameters if p.grad is not None]
        norms = torch.stack([g.flatten(1).pow(2).sum(1) for g in gradients]).sum(0).sqrt()
        shrink = (1 / (norms + 1e-6)).clamp(max=1).view(-1, 1, 1)
        gradients = [g * shrink for g in gradients]
        torch._foreach_lerp_(first, gradients, 0.1)
        torch._foreach_mul_(second, 0.999)
        torch._foreach_addcmul_(second, gradients, gradients, 0.001)
        fix, rate = math.sqrt(1 - 0.999**t), rates.view(-1, 1, 1) / (1 - 0.9**t)
        for p, m, v in zip(parameters, first, second, strict=True):
            p -= rate * m / (v.sqrt() / fix + 1e-8)
            p.grad = None


def _losses(model: Llama, adapters: Adapters, rows: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the mean loss of a response token for each model; shape (models,)."""
    states = hidden(model, rows["ids"].long(), adapters)
    states = states.gather(2, rows["at"][..., None].expand(*rows["at"].shape, states.shape[-1]))
    logits = functional.linear(states, model.embedding).float()
    logprobs = logits.gather(-1, rows["wanted"]) - logits.logsumexp(-1, keepdim=True)
    return -(logprobs * rows["shares"]).sum((1, 2, 3)) / rows["tokens"].sum(1).clamp(min=1)


@torch.no_grad()
def likelihoods(
    model: Llama, adapters: Adapters | None, prompts: Sequence[list[int]], labels: Sequence[list[int]], rows: int = 600
) -> np.ndarray:
    """Return the normalised likelihoods of the labels' tokens after each prompt, shape (prompts, labels).

    All labels stand behind one prompt; each sees the prompt and itself.
    """
    device = model.embedding.device
    tail = [token for label in labels for token in label]
    owner = np.repeat(np.arange(len(labels)), [len(label) for label in labels])
    depth = np.concatenate([np.arange(len(label)) for label in labels])
    own = torch.from_numpy((owner[:, None] == owner[None]) & (depth[:, None] >= depth[None])).to(device)
    order = np.argsort([len(p) for p in prompts], kind="stable")
    out = np.zeros((len(prompts), len(labels)))
    for at in range(0, len(order), rows):
        some = order[at : at + rows]
        sizes = np.array([len(prompts[i]) for i in some])
        width = int(sizes.max())
        ids = np.array([[*prompts[i], *[PAD] * (width - len(prompts[i])), *tail] for i in some])
        positions = np.concatenate([np.tile(np.arange(width), (len(some), 1)), sizes[:, None] + depth], 1)
        mask = torch.zeros(len(some), 1, ids.shape[1], ids.shape[1], dtype=torch.bool, device=device)
        mask[:, :, :width, :width] = torch.ones(width, width, dtype=torch.bool, device=device).tril()
        lengths = torch.from_numpy(sizes).to(device)
        mask[:, 0, width:, :width] = torch.arange(width, device=device) < lengths[:, None, None]
        mask[:, 0, width:, width:] = own
        given = torch.from_numpy(ids).to(device)[None]
        states = hidden(model, given, adapters, positions=torch.from_numpy(positions).to(device), mask=mask)[0]
        # A label's first token is said by the prompt's last, the others by the token before.
        before = torch.where(
            torch.from_numpy(depth == 0).to(device),
            lengths[:, None] - 1,
            width - 1 + torch.arange(len(tail), device=device),
        )
        states = states.gather(1, before[..., None].expand(*before.shape, states.shape[-1]))
        logits = functional.linear(states, model.embedding).float()
        logprobs = logits.gather(-1, given[0, :, width:, None])[..., 0] - logits.logsumexp(-1)
        sums = torch.zeros(len(some), len(labels), device=device)
        sums.index_add_(1, torch.from_numpy(owner).to(device), logprobs)
        out[some] = sums.softmax(-1).cpu().numpy()
    return out
