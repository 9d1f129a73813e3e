"""`sfmobile.Pipeline`: a bundle ready to draw."""

from __future__ import annotations

import sfmobile
from sfmobile.bundle.directory import Bundle
from sfmobile.export.options import ExportOptions
from sfmobile.sampling.pipeline import Request
from sfmobile.signal import psnr
from tests.exported import SharedExports
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


def test_a_unet_exported_for_long_prompts_reads_all_of_one(tiny_exports: SharedExports) -> None:
    bundle = tiny_exports(ExportOptions(prompt_chunks=2))
    (states,) = [one for one in bundle.manifest.components["unet"].inputs if one.name == "encoder_hidden_states"]
    assert states.shape[-1] == 154
    request = Request("a (red:1.3) apple, " + "on a [wooden] table, " * 5, seed=7, steps=1, syntax="a1111")
    latents = []
    for runtime in ("mil", "torch"):
        with sfmobile.Pipeline(bundle, runtime=runtime, source=tiny_exports.checkpoint) as pipeline:
            assert len(pipeline.cut(request.prompt, request.syntax).chunks) == 2
            latents += [step.latents for step in pipeline.steps(request)]
    assert psnr(latents[1], latents[0]) >= 60
