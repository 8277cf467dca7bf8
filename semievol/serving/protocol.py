"""Request bodies of the endpoint: the supported part of OpenAI's API, and the task route.

Unknown fields are refused by name. Further fields of vLLM (chat templates, image URLs, guided decoding, ...) would let a
caller make the server fetch, compile or render things. Clients also send fields that ask for nothing: null, or the default
of OpenAI or vLLM. Those are dropped, and so is what an assistant's message says about itself.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from semievol.data import options

_MAX_STOPS, _MAX_MESSAGES, MAX_QUESTIONS = 64, 256, 64
MAX_PROMPTS = 64  # LangChain sends 20 at a time, lm-eval its batch size

Text = Annotated[str, Field(max_length=4_000_000)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Model = Annotated[str, Field(max_length=128, description="A name that /v1/models lists.", examples=["evolved"])]
Probability = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Token = Annotated[int, Field(ge=0, lt=2**31)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    notes: ClassVar[frozenset[str]] = frozenset()
    """Further fields that no response depends on."""
    unset: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Known fields, each with the values by which clients say nothing."""
    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {}
    """Further fields, each with the values that ask for nothing."""

    @model_validator(mode="before")
    @classmethod
    def _drop_what_asks_for_nothing(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        given = {
            name: value for name, value in body.items() if value is not None and value not in cls.unset.get(name, ())
        }
        return {
            name: value for name, value in given.items() if name in cls.model_fields or not cls._dropped(name, value)
        }

    @classmethod
    def _dropped(cls, name: str, value: Any) -> bool:
        return name in cls.notes or any(value == default for default in cls.neutral.get(name, ()))


class StreamOptions(_Body):
    include_usage: bool = False

    notes = frozenset({"include_obfuscation"})
    neutral: ClassVar = {"continuous_usage_stats": (False,)}


class _Generation(_Body):
    notes = frozenset(
        {"metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "request_id", "cache_salt"}
        | {"parallel_tool_calls"}  # there are no tools
    )
    # Of clients that were made for llama.cpp and LM Studio.
    unset: ClassVar = {"max_tokens": (-1,), "max_completion_tokens": (-1,), "seed": (-1,), "stop": ("", [""])}
    neutral: ClassVar = {
        # OpenAI's defaults
        "tools": ([],),
        "functions": ([],),
        "tool_choice": ("none", "auto"),
        "function_call": ("none", "auto"),
        "store": (False,),
        "service_tier": ("auto", "default"),
        "response_format": ({"type": "text"}, {}),
        "modalities": (["text"], []),
        "reasoning_effort": ("none",),
        "verbosity": ("medium",),
        "logit_bias": ({}, []),
        "best_of": (1,),
        "suffix": ("",),
        "echo": (False,),
        # vLLM's defaults, and those of clients made for it
        "top_k": (-1, 0),
        "min_p": (0,),
        "repetition_penalty": (1,),
        "length_penalty": (1,),
        "use_beam_search": (False,),
        "ignore_eos": (False,),
        "include_stop_str_in_output": (False,),
        "skip_special_tokens": (True,),
        "spaces_between_special_tokens": (True,),
        "include_reasoning": (True,),
        "add_generation_prompt": (True,),
        "continue_final_message": (False,),
        "return_token_ids": (False,),
        "return_tokens_as_token_ids": (False,),
        "priority": (0,),
        "stop_token_ids": ([],),
        "bad_words": ([],),
        "documents": ([],),
        "chat_template_kwargs": ({},),
        "mm_processor_kwargs": ({},),
        "extra_body": ({},),
    }

    model: Model
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
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
    notes = frozenset({"annotations", "cache_control"})

    type: Literal["text"]
    text: Text


class Message(_Body):
    """A message. Assistants' messages come back with the fields of the response that they were taken from."""

    notes = frozenset(
        {"reasoning", "reasoning_content", "reasoning_details", "id", "index", "cache_control"}
        | {"provider_specific_fields", "thinking_blocks", "finish_reason", "parsed"}
    )

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=_MAX_MESSAGES)]
    name: Annotated[str, Field(max_length=64)] | None = None

    @classmethod
    def _dropped(cls, name: str, value: Any) -> bool:
        return not value or super()._dropped(name, value)

    @model_validator(mode="before")
    @classmethod
    def _in_terms_of_templates(cls, message: Any) -> Any:
        """Give an assistant that said nothing the empty text, and call developers what chat templates call them."""
        if not isinstance(message, dict):
            return message
        role, content = message.get("role"), message.get("content")
        silent = {"content": ""} if role == "assistant" and content in (None, []) else {}
        return message | silent | ({"role": "system"} if role == "developer" else {})


class ChatRequest(_Generation):
    """POST /v1/chat/completions"""

    messages: Annotated[list[Message], Field(min_length=1, max_length=_MAX_MESSAGES)]
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=5)


Prompt = Annotated[str, Field(min_length=1, max_length=4_000_000)]
Tokens = Annotated[list[Token], Field(min_length=1)]


def _kind_of_prompt(prompt: Any) -> str:
    """Tell what a prompt is meant to be, for errors about that and not about the other kinds."""
    first = prompt[0] if isinstance(prompt, list) and prompt else None
    several = "token lists" if isinstance(first, list) else "token ids" if isinstance(first, int | float) else "texts"
    return several if isinstance(prompt, list) else "text"


class CompletionRequest(_Generation):
    """POST /v1/completions"""

    prompt: Annotated[
        Annotated[Prompt, Tag("text")]
        | Annotated[list[Prompt], Field(min_length=1, max_length=MAX_PROMPTS), Tag("texts")]
        | Annotated[Tokens, Tag("token ids")]
        | Annotated[list[Tokens], Field(min_length=1, max_length=MAX_PROMPTS), Tag("token lists")],
        Discriminator(_kind_of_prompt),
        Field(description="One prompt or several, as text or as token ids. Each gets a choice with its index."),
    ]
    logprobs: int | None = Field(None, ge=0, le=5)

    @property
    def prompts(self) -> int:
        """Return the number of prompts."""
        return len(self.prompt) if isinstance(self.prompt, list) and not isinstance(self.prompt[0], int) else 1


class Question(_Body):
    """POST /v1/answer"""

    question: Annotated[str, Field(min_length=1, max_length=4_000_000)] | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=_MAX_MESSAGES)] | None = Field(
        None, description="A chat that ends with the user's turn, in place of the question."
    )
    options: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list, max_length=64)
    context: Text | None = None
    fields: dict[str, Text] = Field(default_factory=dict, description="Columns that the prompt's template names.")
    model: Model = "evolved"
    min_confidence: float | None = Field(
        None, ge=0, le=1, allow_inf_nan=False, description="Abstain below this; default: the endpoint's threshold."
    )

    @field_validator("options", mode="before")
    @classmethod
    def _as_list(cls, given: Any) -> Any:
        return options.read(given) or given

    @model_validator(mode="after")
    def _check(self) -> Question:
        if (self.question is None) == (self.messages is None):
            raise ValueError("send either question or messages")
        return self


class Neighbor(BaseModel):
    question: str
    answer: str
    similarity: float = Field(description="Cosine of the embeddings, or the BM25 score.")


class Share(BaseModel):
    answer: str
    text: str = Field(description="The answer in words.")
    share: float = Field(description="Its probability among all answers, which sum to 1.")


class Answer(BaseModel):
    answer: str | None = Field(description="Null if the model abstains or its response has no answer.")
    text: str | None = Field(description="The chosen option in words.")
    confidence: float = Field(
        description="exp(-entropy): the share of the answer, or the geometric mean of the response's token probabilities."
    )
    entropy: float = Field(
        description="In nats: minus the logarithm of the answer's share, or the mean over the response's tokens."
    )
    distribution: list[Share] = Field(description="The likeliest answers, where the model scores all; else empty.")
    abstained: bool
    response: str = Field(description="The text that the model returned.")
    model: str = Field(description="The model that answered, with aliases resolved.")
    examples_in_prompt: bool
    neighbors: list[Neighbor] = Field(description="The nearest labeled rows, nearest first.")


class Example(BaseModel):
    """A labeled row, to try the endpoint with."""

    question: str
    options: list[str]
    context: str | None
    fields: dict[str, str]


class TaskCard(BaseModel):
    """GET /v1/task"""

    kind: str = Field(description="The kind of task, such as classification.")
    asks: list[str] = Field(description="What a question has besides its text: options, context.")
    fields: list[str] = Field(description="Columns that the prompt's template names.")
    labels: list[str] | None = Field(description="All answers, where they are the same for every question.")
    descriptions: dict[str, str] = Field(description="Of labels, where the config has them.")
    multiple: bool = Field(description="A question can have several labels.")
    example: Example | None


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """An error in OpenAI's format."""

    error: ErrorDetail
