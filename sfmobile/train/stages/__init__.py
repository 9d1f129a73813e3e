"""Training stages: what each learns and from what."""
