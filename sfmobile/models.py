"""What comes with sfmobile beside its code: the built-in model, the dual encoder, the plans they were trained by.

In an installed package they are its data; in a checkout they stand in `models/`; `$SFMOBILE_MODELS` names another
folder of the same form.
"""

from __future__ import annotations

import os
from pathlib import Path

from sfmobile.errors import UnavailableError

MODELS_VARIABLE = "SFMOBILE_MODELS"
# Where the wheel puts `models/` (pyproject.toml), and where a checkout has it.
PACKAGED = Path(__file__).with_name("_models")
CHECKOUT = Path(__file__).parents[1] / "models"
# What a folder must hold to be the one that is meant.
BUILT_IN = "glyph"


def models_folder() -> Path:
    """The folder that holds `glyph/`, `dual-encoder/` and `recipes/`.

    Raises `UnavailableError` if `$SFMOBILE_MODELS` is set to anything else, or if it isn't set and the installation
    has none.
    """
    given = os.environ.get(MODELS_VARIABLE)
    if given:
        if not (Path(given) / BUILT_IN).is_dir():
            raise UnavailableError(
                f"'{given}', which {MODELS_VARIABLE} names, doesn't hold the models of sfmobile: expected {BUILT_IN}/ "
                "in it; correct the variable or unset it."
            )
        return Path(given).absolute()
    for folder in (PACKAGED, CHECKOUT):
        if (folder / BUILT_IN).is_dir():
            return folder
    raise UnavailableError(
        f"The models of sfmobile are neither in '{PACKAGED}' nor in '{CHECKOUT}'; install sfmobile again, or name a "
        f"folder that holds them with {MODELS_VARIABLE}."
    )


def find_checkpoint(path: Path) -> Path:
    """`path`, or the checkpoint that comes with sfmobile if it is that one's name ("glyph") and nothing is there.

    A path that leads nowhere stays as it is, for the caller to complain of. Raises as `models_folder` does.
    """
    return _find(path, "", "model_index.json")


def find_recipe(path: Path) -> Path:
    """As `find_checkpoint`, for the plans of training ("glyph-128")."""
    return _find(path, "recipes", "recipe.json")


def _find(path: Path, part: str, file: str) -> Path:
    if path.exists() or len(path.parts) != 1:
        return path
    ours = models_folder() / part / path
    return ours if (ours / file).is_file() else path
