"""Runtimes: what executes a component of a bundle, behind one protocol."""
