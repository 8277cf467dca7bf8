"""A run: its folder, rounds, steps, driver, lease, promotion, checks, and submission."""
