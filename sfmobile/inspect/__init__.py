"""What an exported program says of itself: operations, lint, estimates, block times."""
