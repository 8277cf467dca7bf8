"""Sampling with a seed for each request, on vLLM's CPU build.

There vLLM draws noise for the whole vocabulary from a generator of each request, which took a third of labeling with a
small model (benchmarks/RESULTS.md). Here a token takes one number, and all requests of a step are drawn for at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

_CERTAIN = 1e30  # a logit beside which the others have no chance


def seeded(seed: int, temperature: float) -> dict[str, Any]:
    """SamplingParams of a request for which `SeededSampling` draws."""
    return {"temperature": 0.0, "extra_args": {"seed": seed, "temperature": temperature}}


class SeededSampling(LogitsProcessor):
    """Draws the next token of requests made with `seeded`, and leaves it certain.

    The number for the i-th token of a response is the i-th of its seed's own stream, independent of other requests.
    Source: https://docs.vllm.ai/en/latest/features/custom_logitsprocs
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        # Of each place in the batch: the stream of its seed, the temperature, and the tokens said so far.
        self._requests: dict[int, tuple[list[float], float, list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self._requests, batch_update, _request)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Draw for float32 logits of shape [requests, vocabulary], which are changed in place."""
        if not self._requests:
            return logits
        places = sorted(self._requests)
        requests = [self._requests[place] for place in places]
        numbers = torch.tensor([[stream[len(said)]] for stream, _, said in requests])
        temperatures = torch.tensor([[temperature] for _, temperature, _ in requests])
        asked = logits if len(places) == len(logits) else logits[places]
        shares = (asked / temperatures).softmax(-1).cumsum_(-1)
        whole = shares[:, -1:]
        below = torch.nextafter(whole, torch.zeros(1))  # the product may be rounded up to the whole, where no token is
        drawn = torch.searchsorted(shares, torch.minimum(numbers * whole, below), right=True)
        drawn.clamp_(max=logits.shape[1] - 1)  # where a model gives NaN
        logits[places, drawn[:, 0]] = _CERTAIN
        return logits


def _request(params: SamplingParams, _: Any, said: list[int]) -> tuple[list[float], float, list[int]] | None:
    own = params.extra_args or {}
    if "seed" not in own:
        return None
    stream = np.random.default_rng(own["seed"]).random(params.max_tokens, dtype=np.float32)
    return stream.tolist(), own["temperature"], said
