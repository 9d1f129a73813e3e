"""sfmobile: text-to-image on the iPhone. Export to Core ML, execute and verify the export anywhere, measure it."""

__version__ = "0.1.0"
