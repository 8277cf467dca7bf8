"""Preview a run from its files, its tokenizer and its config: nothing is started."""
