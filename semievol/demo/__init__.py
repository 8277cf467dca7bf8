"""The offline demo: a synthetic data set and a small base model, both made on the spot from one seed."""
