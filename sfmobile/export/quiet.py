"""The converters without their chatter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = ("coremltools", "torch.onnx", "torch.export", "onnxscript")
# What the converters say of each other's versions: coremltools of its own registry, torch of its own trees.
VERSION_WARNINGS: tuple[type[Warning], ...] = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep remarks on versions and missing systems off the user's screen; errors and other warnings stay visible.

    Loading coremltools on Linux reports each library of macOS that it lacks. coremltools' progress bars are another
    matter: see `coremltools_names.without_progress_bars`.
    """
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for category in VERSION_WARNINGS:
            warnings.simplefilter("ignore", category)
        for logger in loggers:
            logger.setLevel(max(logger.level, logging.ERROR))
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
