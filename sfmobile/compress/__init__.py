"""Palettization: weights as indices into small lookup tables."""

from sfmobile.rooms import open_door

open_door(__name__)
