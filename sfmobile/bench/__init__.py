"""What a bundle costs where it runs: latency, memory, the machine, and the reports that say so."""

from sfmobile.rooms import open_door

open_door(__name__)
