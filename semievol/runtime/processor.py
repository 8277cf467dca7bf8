"""What this machine's processor is good at."""

from __future__ import annotations

import time
from functools import cache

_SHAPE = (512, 576, 1536)  # of a small model's layer and a batch
_TRIES = 5
_FASTER = 0.8  # of the time in float32; with AMX it is a quarter


@cache
def multiplies_bfloat16() -> bool:
    """Tell whether products of bfloat16 matrices are faster than those of float32 on this processor.

    It must have instructions for them (AMX, AVX512-BF16), and they must pay: on some virtual machines AVX512-BF16 takes twice
    as long as float32. So it is tried, which takes a few hundredths of a second.
    """
    import torch

    has = (getattr(torch.cpu, f"_is_{what}_supported", bool) for what in ("amx_tile", "avx512_bf16"))
    if not any(supported() for supported in has):
        return False
    rows, width, out = _SHAPE
    times = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, weights = torch.ones(rows, width, dtype=dtype), torch.ones(out, width, dtype=dtype)
        times[dtype] = min(_seconds(x, weights) for _ in range(_TRIES))
    return times[torch.bfloat16] < _FASTER * times[torch.float32]


def _seconds(x: object, weights: object) -> float:
    from torch.nn.functional import linear

    began = time.perf_counter()
    linear(x, weights)
    return time.perf_counter() - began
