"""Read numbers and stated answers out of text."""
