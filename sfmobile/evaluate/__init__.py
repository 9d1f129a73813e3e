"""Picture quality: metrics, prompt sets, plans."""
