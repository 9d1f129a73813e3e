"""What an exported program says of itself: operations, lint, estimates, block times."""

from sfmobile.rooms import open_door

open_door(__name__)
