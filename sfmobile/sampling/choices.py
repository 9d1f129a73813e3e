"""What a drawing can be asked for, as names. Imports nothing heavy."""

from __future__ import annotations

from typing import Literal, get_args

# How a picture of another size is brought to the bundle's. fill: scaled to cover it, the rest cut off around the
# middle. fit: scaled to lie within it, on white. stretch: to it, whatever its proportions become, as diffusers does.
Fit = Literal["fill", "fit", "stretch"]
FITS: tuple[Fit, ...] = get_args(Fit)
DEFAULT_FIT: Fit = "fill"

# Who makes the pictures of what each step predicts, see `sfmobile.sampling.previews`.
PreviewKind = Literal["linear", "tiny", "decoder"]
