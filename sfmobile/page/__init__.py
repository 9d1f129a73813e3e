"""The HTML report."""

from sfmobile.rooms import open_door

open_door(__name__)
