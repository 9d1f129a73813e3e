"""What ships against its references."""
