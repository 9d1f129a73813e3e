"""The kinds of training stages, one file each; a new kind is a new file here and its settings in a plan.

autoencoder -> latents -> denoiser (teacher, efficient) -> decoder -> steps ... -> assemble (a diffusers-format
checkpoint)
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sfmobile.train.stage import StageConfig


def stage_kinds() -> dict[str, type[StageConfig]]:
    """Every kind by its name, in alphabetical order: what the modules of this folder define."""
    from sfmobile.train.stage import StageConfig

    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(StageConfig.kinds.items()))
