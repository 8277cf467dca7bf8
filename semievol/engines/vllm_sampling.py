"""Choose the next tokens of requests on vLLM's CPU build: drawn with a seed, or told beforehand.

For its own seeds that build draws noise for the whole vocabulary from a generator of each request, which took a third of
labeling with a small model (benchmarks/RESULTS.md). Here a token needs one random number, and all requests of a step draw
together. On a GPU vLLM's own seeds cost nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

_LIKELIEST = 20  # tokens with log-probabilities that a request may ask for, vLLM's limit (`max_logprobs`)
_CERTAIN = 1e30  # a logit that leaves the other tokens no probability


def seeded(seed: int, temperature: float) -> dict[str, Any]:
    """Return the SamplingParams of a request for which `ChosenTokens` draws."""
    return {"temperature": 0.0, "extra_args": {"seed": seed, "temperature": temperature}}


class ChosenTokens(LogitsProcessor):
    """Make the next token certain of requests that are made with `seeded`, or that `vllm_scoring` tells what to say.

    vLLM's raw log-probabilities do not show it, as they are taken before.

    The i-th token of a seeded response uses the i-th number of its seed's stream, independent of other requests and of time.
    Source: https://docs.vllm.ai/en/latest/features/custom_logitsprocs
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        keep_other_logprobs()  # here, because this is the process of the sampler
        # For each place in the batch: the stream of its seed, the temperature, and the tokens generated so far.
        self._requests: dict[int, tuple[list[float], float, list[int]]] = {}
        self._told: dict[int, tuple[list[int], list[int]]] = {}  # what to say, and the tokens generated so far

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self._requests, batch_update, _request)
        process_dict_updates(self._told, batch_update, _sentence)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Choose a token for each request: change the logits (float32, [requests, vocabulary]) in place."""
        going_on = [(place, path[len(said)]) for place, (path, said) in self._told.items() if len(said) < len(path)]
        if going_on:
            logits[tuple(torch.tensor(going_on).T)] = _CERTAIN
        return self._draw(logits) if self._requests else logits

    def _draw(self, logits: torch.Tensor) -> torch.Tensor:
        places = sorted(self._requests)
        requests = [self._requests[place] for place in places]
        numbers = torch.tensor([[stream[len(tokens)]] for stream, _, tokens in requests])
        temperatures = torch.tensor([[temperature] for _, temperature, _ in requests])
        seeded_logits = logits if len(places) == len(logits) else logits[places]
        shares = (seeded_logits / temperatures).softmax(-1).cumsum_(-1)
        whole = shares[:, -1:]
        below = torch.nextafter(whole, torch.zeros(1))  # the product may round up to the whole, past the last token
        drawn = torch.searchsorted(shares, torch.minimum(numbers * whole, below), right=True)
        drawn.clamp_(max=logits.shape[1] - 1)  # if the model gives NaN
        logits[places, drawn[:, 0]] = _CERTAIN
        return logits


def _request(params: SamplingParams, _: Any, tokens: list[int]) -> tuple[list[float], float, list[int]] | None:
    extra = params.extra_args or {}
    if "seed" not in extra:
        return None
    stream = np.random.default_rng(extra["seed"]).random(params.max_tokens, dtype=np.float32)
    return stream.tolist(), extra["temperature"], tokens


def _sentence(params: SamplingParams, _: Any, tokens: list[int]) -> tuple[list[int], list[int]] | None:
    told = (params.extra_args or {}).get("told")
    return (told, tokens) if told else None


def keep_other_logprobs() -> None:
    """Let requests with `logprobs` share a step with requests that have `logprob_token_ids`.

    In such a step vLLM 0.29's first model runner, the one for CPUs, gives the former no likeliest tokens.
    """
    from vllm.v1.sample.sampler import Sampler

    gather = Sampler.gather_specific_token_logprobs
    if gather.__module__ == __name__:
        return  # done for another engine

    def gather_for_all(self: Any, logprobs: Any, logprob_token_ids: dict[int, list[int]], sampled: Any) -> Any:
        others = [place for place in range(len(logprobs)) if place not in logprob_token_ids]
        if others:
            likeliest = logprobs[others].topk(min(_LIKELIEST, logprobs.shape[1])).indices.tolist()
            logprob_token_ids = logprob_token_ids | dict(zip(others, likeliest, strict=True))
        return gather(self, logprobs, logprob_token_ids, sampled)

    Sampler.gather_specific_token_logprobs = gather_for_all
