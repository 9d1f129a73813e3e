"""ML Programs as data: packages, weight files, types, programs and their graphs. No torch, no coremltools."""
