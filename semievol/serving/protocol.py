"""Request bodies of the endpoint: the supported part of OpenAI's API, and the task route.

Unknown fields are refused by name. Further fields of vLLM (chat templates, image URLs, guided decoding, ...) would let a
caller make the server fetch, compile or render things.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_MAX_STOPS, _MAX_MESSAGES, MAX_QUESTIONS = 4, 256, 64

Text = Annotated[str, Field(max_length=4_000_000)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Model = Annotated[str, Field(max_length=128, description="A name that /v1/models lists.", examples=["evolved"])]
Probability = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StreamOptions(_Body):
    include_usage: bool = False


class _Generation(_Body):
    model: Model
    max_tokens: int | None = Field(None, ge=1)
    min_tokens: int | None = Field(None, ge=0, description="Minimum number of tokens (from vLLM).")
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: Probability | None = None
    n: int | None = Field(None, ge=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=_MAX_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    user: Annotated[str, Field(max_length=256)] | None = Field(None, description="For compatibility; not used.")


class TextPart(_Body):
    type: Literal["text"]
    text: Text


class Message(_Body):
    role: Literal["system", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=_MAX_MESSAGES)]
    name: Annotated[str, Field(max_length=64)] | None = None


class ChatRequest(_Generation):
    """POST /v1/chat/completions"""

    messages: Annotated[list[Message], Field(min_length=1, max_length=_MAX_MESSAGES)]
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=5)


class CompletionRequest(_Generation):
    """POST /v1/completions"""

    prompt: Annotated[str, Field(min_length=1, max_length=4_000_000)]
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: Literal[False] | None = None


class Question(_Body):
    """POST /v1/answer"""

    question: Annotated[str, Field(min_length=1, max_length=4_000_000)] | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=_MAX_MESSAGES)] | None = Field(
        None, description="A chat that ends with the user's turn, in place of the question."
    )
    options: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list, max_length=64)
    context: Text | None = None
    model: Model = "evolved"
    min_confidence: float | None = Field(
        None, ge=0, le=1, allow_inf_nan=False, description="Abstain below this; default: the endpoint's threshold."
    )

    @model_validator(mode="after")
    def _check(self) -> Question:
        if (self.question is None) == (self.messages is None):
            raise ValueError("send either question or messages")
        return self


class Neighbor(BaseModel):
    question: str
    answer: str
    similarity: float = Field(description="Cosine of the embeddings, or the BM25 score.")


class Answer(BaseModel):
    answer: str | None = Field(description="Null if the model abstains or its response has no answer.")
    text: str | None = Field(description="The chosen option in words.")
    confidence: float = Field(description="exp(-entropy): the geometric mean of the response's token probabilities.")
    entropy: float = Field(description="Mean negative log-probability of the response's tokens, in nats.")
    abstained: bool
    response: str = Field(description="The text that the model returned.")
    model: str = Field(description="The model that answered, with aliases resolved.")
    examples_in_prompt: bool
    neighbors: list[Neighbor] = Field(description="The nearest labeled rows, nearest first.")


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """An error in OpenAI's format."""

    error: ErrorDetail
