"""Training: data, the stages of the recipe, metrics and their evaluation."""
