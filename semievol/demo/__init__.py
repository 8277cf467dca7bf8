"""The offline demo: a synthetic data set and a small base model, both generated from one seed."""
