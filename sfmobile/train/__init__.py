"""The SnapFusion recipe: data, teacher, efficient UNet, decoder and step distillation, evaluation, evolution."""
