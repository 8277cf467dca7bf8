"""Inference engines behind one interface: vLLM in the labeler's process, or any OpenAI-compatible endpoint."""

from semievol.config import EngineConfig
from semievol.engines.base import Completion, Engine, EngineDied, PromptTooLong, RequestRefused
from semievol.engines.templates import OWN_TEMPLATE, ChatSettings


def load(model: str, config: EngineConfig, chat: ChatSettings = OWN_TEMPLATE) -> Engine:
    """Build the engine of `engine.kind` with its model, in the actor that uses it."""
    if config.kind == "openai":
        from semievol.engines.openai import OpenAIEngine

        return OpenAIEngine(model, config)
    from semievol.engines.vllm import VLLMEngine

    return VLLMEngine(model, config, chat)
