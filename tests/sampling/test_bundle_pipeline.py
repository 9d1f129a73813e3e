"""`sfmobile.Pipeline`: a bundle ready to draw."""

from __future__ import annotations

import sfmobile
from sfmobile.bundle.directory import Bundle
from tests.log import Log


def test_a_pipeline_draws_pictures_that_a_notebook_shows(tiny_bundle: Bundle, capsys) -> None:
    log = Log()
    with sfmobile.Pipeline(tiny_bundle.root, observer=log) as pipeline:
        one, same = (pipeline("a red apple", seed=3, steps=2) for _ in range(2))
        other = pipeline("a red apple", seed=4, steps=2, observer=log)
    assert one._repr_png_() == same._repr_png_() != other._repr_png_()
    assert one.settings["seed"] == 3 and one.settings["steps"] == 2
    checked = f"Checking {tiny_bundle.root.name}"
    assert log.totals[checked] == log.done[checked] and log.done["a red apple"] == 2
    assert capsys.readouterr() == ("", "")
