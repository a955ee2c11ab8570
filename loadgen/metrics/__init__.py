"""Samples → figures and the doubts about them. Pure: no clocks, files or network."""
