"""From a text-to-image checkpoint to a verified Core ML bundle for the iPhone, a picture and a latency report.

    import sfmobile

    bundle = sfmobile.export("path/to/checkpoint", "out/bundle", bits=6)
    print(sfmobile.verify(bundle))                     # passed or failed, and where
    sfmobile.Pipeline(bundle)("a red apple", seed=0)   # a picture in the notebook

Every function takes paths or what is open already, has the command's options as keywords, and returns a record that
prints well; none prints or draws anything itself. What takes long tells an `Observer` if it is given one. Importing
this package imports nothing else: what is named here comes from its room when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sfmobile.version import __version__ as __version__

if TYPE_CHECKING:
    from sfmobile import errors as errors
    from sfmobile.bench.benchmark import bench as bench
    from sfmobile.bench.comparison import compare as compare
    from sfmobile.bundle.directory import Bundle as Bundle
    from sfmobile.checkpoint.hub import open_checkpoint as open_checkpoint
    from sfmobile.export.exported import export as export
    from sfmobile.inspect.estimation import estimate as estimate
    from sfmobile.inspect.inspection import inspect as inspect
    from sfmobile.observer import Observer as Observer
    from sfmobile.page.making import page as page
    from sfmobile.recipes.applied import compress as compress
    from sfmobile.recipes.searched import search_recipe as search_recipe
    from sfmobile.runtime.model import Model as Model
    from sfmobile.sampling.pipeline import Pipeline as Pipeline
    from sfmobile.verify.verdict import verify as verify

# What is offered, and the module that has it. Rooms of the same name are called in their function's place: see
# `sfmobile.rooms`.
OFFERED = {
    "Bundle": "sfmobile.bundle.directory",
    "Model": "sfmobile.runtime.model",
    "Observer": "sfmobile.observer",
    "Pipeline": "sfmobile.sampling.pipeline",
    "bench": "sfmobile.bench.benchmark",
    "compare": "sfmobile.bench.comparison",
    "compress": "sfmobile.recipes.applied",
    "estimate": "sfmobile.inspect.estimation",
    "export": "sfmobile.export.exported",
    "inspect": "sfmobile.inspect.inspection",
    "open_checkpoint": "sfmobile.checkpoint.hub",
    "page": "sfmobile.page.making",
    "search_recipe": "sfmobile.recipes.searched",
    "verify": "sfmobile.verify.verdict",
}
ROOMS = ("bench", "compress", "errors", "export", "inspect", "page", "verify")

__all__ = [
    "Bundle",
    "Model",
    "Observer",
    "Pipeline",
    "bench",
    "compare",
    "compress",
    "errors",
    "estimate",
    "export",
    "inspect",
    "open_checkpoint",
    "page",
    "search_recipe",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in ROOMS:
        return importlib.import_module(f"sfmobile.{name}")
    if name in OFFERED:
        value = getattr(importlib.import_module(OFFERED[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'sfmobile' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
