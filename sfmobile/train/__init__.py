"""Training as SnapFusion does it: data, teacher, efficient UNet, decoder, step distillation; evolution."""
