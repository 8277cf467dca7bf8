"""Estimate what labeling costs, from the lengths of sampled prompts."""

from __future__ import annotations

from typing import Any

from semievol.preview.look import Preview


def of_labeling(preview: Preview) -> list[dict[str, Any]]:
    """Return the tokens of each collaborator over all unlabeled rows, and of self-justification if the answers to every row differ.

    `prompt` is an estimate, `output` an upper bound. `price` is in the currency of `engine.price_per_million`: None without prices,
    0 for tokens of the run's own engine.
    """
    rows = preview.splits["unlabeled"].usable
    price = preview.config.engine.price_per_million
    found = []
    for measured in preview.measured:
        request = measured.request
        if request.trains or request.splits != ("unlabeled",):
            continue
        prompt = sum(measured.sent.values()) / max(len(measured.lengths), 1)  # rows that are too long are not sent
        output = request.max_tokens * request.samples
        money = None
        if price.input is not None and price.output is not None:
            money = rows * (prompt * price.input + output * price.output) / 1e6 if request.paid else 0.0
        cost = {"request": request.name, "rows": rows, "prompt_per_row": prompt, "output_per_row": output}
        found.append(cost | {"price": money, "prompt": round(rows * prompt), "output": rows * output})
    return found
