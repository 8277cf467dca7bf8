"""Inference engines behind one small interface; vLLM is the one there is."""
