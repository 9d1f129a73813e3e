"""PyTorch networks in the Neural Engine's layout: one source for training, reference and export."""
