"""Palettization: weights as indices into small lookup tables."""
