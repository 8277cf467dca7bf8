"""The paper, without Ray or torch: prompts, confidence, selection, metrics."""
