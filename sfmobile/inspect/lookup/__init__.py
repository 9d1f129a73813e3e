"""Times block by block, for an architecture search."""
