"""Measures of a trained model: perceptual distance, feature distances, agreement, composed prompts, memorisation."""
