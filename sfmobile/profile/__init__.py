"""Measuring: latency per component, agreement between two results, and the reports both sides of the bundle share."""
