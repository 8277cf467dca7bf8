"""Inference engines behind one interface: vLLM in the labeler's process, or any OpenAI-compatible endpoint."""

from semievol.engines.base import Completion, Engine, EngineDied, PromptTooLong, RequestRefused, load
