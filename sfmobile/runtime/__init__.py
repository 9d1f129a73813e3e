"""Engines that execute a component of a bundle, behind one protocol."""
