"""Estimated times on devices nobody has at hand."""
