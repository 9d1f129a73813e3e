"""Captioned sprites from registry packages, and truthful compositions made of them on the fly.

Needs only torch, numpy, pillow, safetensors, resvg_py and, for token ids, tokenizers.
"""
