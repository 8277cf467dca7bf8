"""Bulk inference: collaborators answer every row of a folder."""
