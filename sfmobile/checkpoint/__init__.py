"""Checkpoints: diffusers-format directories to our networks and back, safetensors only."""
