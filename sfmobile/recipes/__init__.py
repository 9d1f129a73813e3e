"""Which bits where: sensitivity, budget, search."""
