"""A checkpoint taught somebody's own pictures."""
