"""Samplers: what walks the noise down to a picture, one file each over one noise schedule. Arrays are numpy's."""
