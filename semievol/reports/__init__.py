"""Figures for people: the summary of a run, tables, plots of a study."""
