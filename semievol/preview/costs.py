"""Estimate what labeling costs, from the lengths of sampled prompts."""

from __future__ import annotations

from dataclasses import dataclass

from semievol.preview.look import Preview


@dataclass(frozen=True)
class Cost:
    """The tokens of one request over all unlabeled rows: `prompt` is an estimate, `output` an upper bound.

    `price` is in the currency of `engine.price_per_million`; None without prices, 0 for tokens of the run's own engine.
    """

    request: str
    rows: int
    prompt_per_row: float
    output_per_row: int
    price: float | None

    @property
    def prompt(self) -> int:
        return round(self.rows * self.prompt_per_row)

    @property
    def output(self) -> int:
        return self.rows * self.output_per_row


def of_labeling(preview: Preview) -> list[Cost]:
    """Return the cost of each collaborator, and of self-justification if the answers to every row differ."""
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
        found.append(Cost(request.name, rows, prompt, output, money))
    return found
