"""What ships against its references."""

from sfmobile.rooms import open_door

open_door(__name__)
