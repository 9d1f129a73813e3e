"""`sfmobile.verify`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import sfmobile
from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import GateError, UnavailableError, UsageError
from tests.log import Log


def moved_away(bundle: Bundle) -> Bundle:
    """A bundle whose checkpoint isn't here."""
    source = bundle.manifest.source.model_copy(update={"id": "someone/model"})
    return Bundle(bundle.root, bundle.manifest.model_copy(update={"source": source}))


def test_verify_takes_what_is_open_and_prints_its_verdict_first(
    tiny_bundle: Bundle, tiny_checkpoint: Checkpoint, capsys
) -> None:
    log = Log()
    found = sfmobile.verify(
        tiny_bundle, source=tiny_checkpoint, prompt="a", steps=1, sampler="pndm", precision="fp32", observer=log
    )
    assert found.passed and found.sampler == "pndm" and ", pndm" in str(found)
    assert [one.runtime.precision for one in found.evaluations] == ["fp32"]
    assert str(found).startswith("tiny. Passed: it is the network it claims to be, every component and the picture ")
    assert "Exact: " in str(found) and "Lost: " in str(found) and found.rounded is None
    assert log.totals["Reference (torch fp32)"] == log.done["Reference (torch fp32)"] == 2
    assert [(one.name, one.skipped) for one in found.references] == [
        ("nets", None),
        ("golden", None),
        ("diffusers", None),
        ("coreai", "not asked for"),
    ]
    assert capsys.readouterr() == ("", "")


def test_quick_says_what_it_leaves_out_and_rounding_is_an_answer_of_its_own(
    tiny_palettized_bundle: Bundle, tiny_checkpoint: Checkpoint
) -> None:
    found = sfmobile.verify(tiny_palettized_bundle, source=tiny_checkpoint, quick=True, reference=("nets", "golden"))
    assert found.passed and found.steps == 2 and len(found.prompts) == 1
    assert found.left_out[:2] == ("1 of 2 prompts", "a run in 8 steps, for one in 2") and "Left out: " in str(found)
    assert found.exact is not None and found.exact.against == ("the checkpoint", "the golden vectors")
    assert found.rounded is not None and found.rounded.components["unet"].gate_db == 60
    lost, last = found.evaluations
    # The loop is walked once, in the evaluation nearest to a phone's; components are compared at its first step.
    assert not lost.steps and "the loop in fp32" in found.left_out and len(last.steps) == 2
    assert last.picture is not None and {one.input for one in last.components["unet"].samples} == {
        "prompt 1, step 1 of 2"
    }
    assert found.rounded.components["unet"].worst.closeness > lost.components["unet"].worst.closeness
    assert [(one.left, one.right) for one in found.read] == [("golden vectors", "our networks")]


def test_a_sampler_that_can_not_walk_is_refused_before_any_work(
    tiny_bundle: Bundle, tiny_checkpoint: Checkpoint
) -> None:
    with pytest.raises(UsageError, match="no sampler 'dreams'"):
        sfmobile.verify(tiny_bundle, source=tiny_checkpoint, sampler="dreams")


def test_one_component_leaves_out_the_loop(tiny_bundle: Bundle, tiny_checkpoint: Checkpoint) -> None:
    found = sfmobile.verify(tiny_bundle, source=tiny_checkpoint, component="text_encoder", prompt="a", precision="fp32")
    assert found.passed and found.exact is not None and list(found.exact.components) == ["text_encoder"]
    (evaluation,) = found.evaluations
    assert list(evaluation.components) == ["text_encoder"] and evaluation.picture is None and not evaluation.steps
    assert any("the loop and the picture" in words for words in found.left_out)
    assert any(one.name == "diffusers" and "all components" in str(one.skipped) for one in found.references)


def test_without_the_checkpoint_the_manifest_is_held_to_the_golden_vectors(tiny_bundle: Bundle) -> None:
    bundle = moved_away(tiny_bundle)
    found = sfmobile.verify(bundle, precision="fp32")
    assert found.passed and found.exact is not None and not found.exact.components
    assert found.exact.against == ("the golden vectors",) and len(found.evaluations[0].steps) == 2
    sampler = bundle.manifest.sampler.model_copy(update={"beta_end": 0.02})
    wrong = Bundle(bundle.root, bundle.manifest.model_copy(update={"sampler": sampler}))
    found = sfmobile.verify(wrong, precision="fp32")
    assert not found.passed
    assert any("the manifest's sampler leaves the golden run at step 1" in words for words in found.failures())
    assert any("latents" in words and "from step 1 on" in words for words in found.failures())


def test_a_reference_that_is_not_here_is_one_sentence(
    tiny_bundle: Bundle, tiny_snapfusion_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnavailableError, match="the reference nets: the checkpoint 'someone/model' isn't here"):
        sfmobile.verify(moved_away(tiny_bundle), reference="nets")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"the reference diffusers: diffusers isn't installed\.$"):
        sfmobile.verify(tiny_bundle, reference="diffusers")


def test_references_that_disagree_are_named_with_where_it_starts(
    tiny_bundle: Bundle, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    import numpy as np

    root = Path(shutil.copytree(tiny_bundle.root, tmp_path / "copied"))
    path = root / "golden" / "unet.model_output.npy"
    np.save(path, 1.01 * np.load(path))
    copied = Bundle.open(root, check="none")
    found = sfmobile.verify(copied, source=tiny_checkpoint, reference="golden", precision="fp32")
    assert any("golden vectors and our networks disagree from 'unet' on" in words for words in found.failures())
    broken = np.load(path)
    broken.flat[0] = np.nan
    np.save(path, broken)
    found = sfmobile.verify(
        copied, source=tiny_checkpoint, reference="golden", component="unet", precision="fp32", quick=True
    )
    assert any("from 'unet' on: 1 values NaN or infinite of 80 dB" in words for words in found.failures())


def test_a_checkpoint_that_gives_nan_itself_is_no_reference(
    tiny_bundle: Bundle, tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Checkpoint.load

    def broken(self, part, dtype="float32"):
        import torch

        network = load(self, part, dtype)
        if part == "unet" and dtype == "float32":
            with torch.no_grad():
                network.conv_in.weight[0] = float("nan")
        return network

    monkeypatch.setattr(Checkpoint, "load", broken)
    with pytest.raises(GateError, match=r"is broken itself: unet gives .* after 0 steps, first at module 'conv_in'"):
        sfmobile.verify(tiny_bundle, source=tiny_checkpoint, prompt="a", steps=1)
