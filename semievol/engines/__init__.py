"""Inference engines behind one small interface: vLLM in the labeler's own process, or any OpenAI-compatible endpoint."""

from semievol.config import EngineConfig
from semievol.engines.base import Completion, Engine, EngineDied, PromptTooLong, RequestRefused


def load(model: str, config: EngineConfig) -> Engine:
    """Return the engine of `engine.kind` with its model, in the process that uses it."""
    if config.kind == "openai":
        from semievol.engines.openai import OpenAIEngine

        return OpenAIEngine(model, config)
    from semievol.engines.vllm import VLLMEngine

    return VLLMEngine(model, config)
