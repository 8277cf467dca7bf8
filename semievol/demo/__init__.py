"""Prepare the offline demo: a synthetic data set, made from a seed, and a small model that is an ordinary Python package."""
