"""Settings of the two trainings, their adapters, and the trainer."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from semievol.config.section import FINGERPRINT, BaseURL, Options, Section, ShareBelowOne, with_kind


def _epochs(given: Any) -> Any:
    if given == "auto" or (isinstance(given, int | float) and not isinstance(given, bool) and given > 0):
        return given
    raise ValueError(f"must be auto or a number of passes above 0, is {given}")


class LoraConfig(Section):
    """Low-rank adapters (paper, section 4.1 and the released code)."""

    rank: PositiveInt = 16
    alpha: PositiveInt = 32
    dropout: ShareBelowOne = 0.0
    targets: list[str] = ["all-linear"]
    """`[all-linear]`, or names of modules, such as `[q_proj, embed_tokens]`."""
    layers: PositiveInt | None = None
    """Train this many of the model's layers, the upper ones. The lower ones then cost no backward pass. Default: all."""
    extra: Options = {}
    """Further arguments of PEFT's `LoraConfig`, passed on as they are, such as `use_dora`."""

    later: ClassVar[dict[str, Any]] = {"layers": None}


class TrainConfig(Section):
    """One supervised fine-tuning. The loss is on the tokens of the response only."""

    epochs: Annotated[PositiveFloat | Literal["auto"], BeforeValidator(_epochs)] = "auto"
    """Passes over the rows. `auto`: as many as make 160 steps of 8 rows, but at least 2 and at most 20."""
    learning_rate: PositiveFloat = 1e-4
    batch_size: PositiveInt = 8
    """The effective batch size: workers x `per_device_batch_size` x steps of accumulation."""
    per_device_batch_size: PositiveInt = 4
    max_length: PositiveInt = 1024
    """Tokens of prompt and response. A longer row is quarantined."""
    warmup_ratio: ShareBelowOne = 0.1
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"] = "cosine"
    """The learning rate's schedule, by its name in transformers."""
    weight_decay: NonNegativeFloat = 0.0
    zero_stage: Literal[0, 1, 2, 3] = 2
    """The stage of DeepSpeed ZeRO."""
    lora: LoraConfig = LoraConfig()


class WarmupConfig(TrainConfig):
    """In-weight propagation. With solved examples in its prompts a small model learns to use those of other rows."""

    context: Literal["none", "knn", "mixed"] = "none"
    """`knn`: each row shows its own k nearest labeled rows. `mixed`: every other row does."""
    k: NonNegativeInt = 3
    """Nearest labeled rows in a prompt, at most `retrieve.k`."""
    members: Annotated[int, Field(ge=1, le=32)] = 1
    """Warm models. More than one are a committee: each leaves one fold of the labeled rows out, and has a seed and a style of
    its own. `warm` then stands for all of them where rows are labeled or test rows evaluated, and else for the one with the
    lowest loss on the rows that it left out."""
    styles: list[str] | None = None
    """The styles of the members' prompts, by their names in `prompt.styles`; members beyond them start over. Default: all."""

    later: ClassVar[dict[str, Any]] = {"members": 1, "styles": None}


class FinetuneConfig(TrainConfig):
    """The final training, on labeled rows and selected pseudo-labels."""

    start_from: Literal["base", "warm"] = "base"
    """The weights to start from. A round after round 0 starts from the last evolved model."""
    include_labeled: bool = True
    """Train on the labeled rows too."""
    targets: Literal["hard", "soft"] = "hard"
    """`soft`: where the tokens of a pseudo-label tell it from the others, learn the share that the collaborators gave to each
    (`shares` in the rows of `label`), and not the chosen label alone. Rows that self-justification decided stay hard."""

    later: ClassVar[dict[str, Any]] = {"targets": "hard"}


class DeepSpeedTrainer(Section):
    """Fine-tune on the cluster, with DeepSpeed."""

    kind: Literal["deepspeed"] = "deepspeed"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """The precision of matrix products. `auto`: bfloat16 on GPUs, and on CPUs that multiply it faster (AMX, most with
    AVX512-BF16); else float32. On CPUs weights stay float32 in either case."""
    extra: Options = {}
    """Further arguments of TRL's `SFTConfig`, passed on as they are, such as `neftune_noise_alpha`."""

    later: ClassVar[dict[str, Any]] = {"dtype": "auto"}

    @property
    def output_settings(self) -> dict[str, Any]:
        """What the trained model depends on."""
        return self.model_dump(context=FINGERPRINT)


class OpenAITrainer(Section):
    """Fine-tune with the API of an OpenAI-compatible endpoint. Use it with `engine.kind: openai`.

    `model.base` is the name of a model there. The API takes uncut rows, `batch_size` and whole `epochs`.
    """

    kind: Literal["openai"] = "openai"
    endpoint: BaseURL | None = None
    """The base URL. Default: `engine.endpoint`."""
    api_key_env: str | None = None
    """The variable that holds the key. Default: `engine.api_key_env`."""
    learning_rate_multiplier: PositiveFloat | None = None
    """What the API takes in place of a learning rate. Default: its own choice."""
    suffix: str = "semievol"
    """A part of the names of the models that are made."""
    poll_s: PositiveFloat = 30.0
    """Seconds between two looks at a job."""

    @property
    def output_settings(self) -> dict[str, Any]:
        """What the trained model depends on."""
        return self.model_dump(include={"kind", "endpoint", "learning_rate_multiplier"})


Trainer = Annotated[DeepSpeedTrainer | OpenAITrainer, Field(discriminator="kind"), with_kind("deepspeed")]
