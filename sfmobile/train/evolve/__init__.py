"""Architecture evolution: SnapFusion's Algorithm 1."""
