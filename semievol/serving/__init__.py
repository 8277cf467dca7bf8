"""The endpoint: evolved models behind an OpenAI-compatible API, on ray.serve.llm."""
