"""From a checkpoint's networks to Core ML packages or ONNX files, one loop over component specs."""

from sfmobile.rooms import open_door

open_door(__name__)
