"""Inference engines behind one small interface: vLLM in the labeler's own process, or any OpenAI-compatible endpoint."""

from semievol.engines.base import Completion, Engine, EngineDied, PromptTooLong, RequestRefused, load
