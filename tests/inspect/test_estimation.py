"""An estimate before the export is the one of the bundle that the export makes."""

from __future__ import annotations

from pathlib import Path

import pytest

import sfmobile
from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.unwritten import LAYOUTS, named_layout, unwritten_checkpoint
from sfmobile.errors import UsageError
from sfmobile.export.component import fitted
from sfmobile.export.options import ExportOptions
from sfmobile.inspect import estimation
from sfmobile.inspect.estimation import Estimate
from sfmobile.nets.layout import AutoencoderLayout, Stage, TextEncoderLayout, UNetLayout
from tests.exported import SharedExports
from tests.tiny import TINY_AUTOENCODER, TINY_LATENT_SIZE, TINY_TEXT_ENCODER, TINY_UNET

PHONE = "iphone-12"


def check_equal(before: Estimate, after: Estimate) -> None:
    """Time and memory are read off programs that differ in nothing but the weights; the size is a sum of few parts."""
    planned, exported = before.rows[0], after.rows[0]
    assert (before.exported, after.exported) == (False, True)
    assert planned.content.bits == exported.content.bits and planned.content.long == exported.content.long
    assert planned.content.pixels == exported.content.pixels
    for one, other in zip(planned.time.components, exported.time.components, strict=True):
        assert (one.component, one.calls) == (other.component, other.calls)
        assert one.call_ms == pytest.approx(other.call_ms, rel=1e-6)
    for part, found in zip(planned.content.footprint.components, exported.content.footprint.components, strict=True):
        assert part.activations == found.activations and part.decompressed == pytest.approx(
            found.decompressed, rel=0.02
        )
        assert part.compressed == pytest.approx(found.compressed, rel=0.02)
        assert (part.name, part.per_step) == (found.name, found.per_step)
    assert planned.disk == pytest.approx(exported.disk, rel=0.1)


def test_what_a_checkpoint_would_take_is_what_its_bundle_takes(
    tiny_checkpoint: Checkpoint, tiny_bundle: Bundle, tiny_palettized_bundle: Bundle
) -> None:
    check_equal(
        sfmobile.estimate(tiny_checkpoint, device=PHONE, bits="none"), sfmobile.estimate(tiny_bundle, device=PHONE)
    )
    check_equal(
        sfmobile.estimate(tiny_checkpoint, device=PHONE, bits=6, guidance_batch=1),
        sfmobile.estimate(tiny_palettized_bundle.root, device=PHONE),
    )


def test_a_layout_costs_what_a_checkpoint_of_it_costs(tiny_checkpoint: Checkpoint) -> None:
    bare = unwritten_checkpoint("tiny", TINY_UNET, TINY_TEXT_ENCODER, TINY_AUTOENCODER, TINY_LATENT_SIZE)
    by_layout, by_files = (sfmobile.estimate(one, device=PHONE, bits=4) for one in (bare, tiny_checkpoint))
    assert by_layout.rows[0].record(by_layout.device) == by_files.rows[0].record(by_files.device)
    assert by_layout.verdict()[1:] == by_files.verdict()[1:]


def test_the_named_layouts_are_those_of_full_size() -> None:
    parameters = {name: named_layout(name).parameters("unet") for name in LAYOUTS}  # type: ignore[union-attr]
    # CompVis and Stability publish 859,520,964 and 865,910,724 parameters.
    # SSD-1B is published as of 1.3 billion.
    assert 1.29e9 < parameters.pop("ssd-1b") < 1.35e9
    # SDXL's as diffusers counts it of the published config.
    published = {"sd15": 859_520_964, "sd21": 865_910_724, "snapfusion": 759_327_364, "sdxl": 2_567_463_684}
    assert parameters == published
    assert named_layout("sd21").parameters("text_encoder") == 340_387_840  # type: ignore[union-attr]


def test_the_layout_of_two_text_encoders_is_described_as_its_checkpoints_are() -> None:
    named = named_layout("sdxl")
    assert named is not None
    pipeline = named.pipeline
    assert pipeline.components == ("text_encoder", "text_encoder_2", "unet", "decoder")
    assert pipeline.added is not None and (pipeline.added.pooled, pipeline.added.dimension) == (1280, 256)
    assert (named.latent_size, named.default_steps, named.guidance_scale) == ((128, 128), 20, 5.0)
    # Of openai/clip-vit-large-patch14 without its last layer and norm, and of OpenCLIP's ViT-bigG with its projection.
    assert [named.parameters(name) for name in pipeline.text_encoders] == [115_971_072, 694_659_840]


def test_a_name_that_is_a_layout_and_a_path_is_asked_about(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert named_layout("elsewhere") is None
    Path("sd15").mkdir()
    with pytest.raises(UsageError, match=r"layout:sd15 for the layout, or \./sd15"):
        named_layout("sd15")
    assert named_layout("layout:sd15") is not None
    with pytest.raises(UsageError, match="'sd9' is no layout"):
        named_layout("layout:sd9")


def test_a_bundle_is_what_it_is(tiny_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="is exported already"):
        sfmobile.estimate(tiny_bundle, device=PHONE, bits=4)
    with pytest.raises(UsageError, match="is exported already"):
        sfmobile.estimate(tiny_bundle, device=PHONE, compare=True)


@pytest.fixture(scope="module")
def long_checkpoint() -> Checkpoint:
    """The smallest network that attends over 1,024 positions at once."""
    unet = UNetLayout(
        "long", (Stage(16, 1, 1),), Stage(16, 1, 0), (Stage(16, 2, 0),), cross_attention_dim=16, heads=2, norm_groups=8
    )
    text = TextEncoderLayout(hidden=16, layers=1, heads=1, intermediate=16, vocabulary=600)
    autoencoder = AutoencoderLayout("long", (8,), (8,), layers_per_block=1, norm_groups=8)
    return unwritten_checkpoint("long", unet, text, autoencoder, (32, 32))


def test_the_forms_of_attention_differ_and_the_faster_one_is_named(long_checkpoint: Checkpoint, monkeypatch) -> None:
    monkeypatch.setattr(estimation, "ATTENTION_FORMS", ("split-einsum", "split-einsum-v2"))
    monkeypatch.setattr(estimation, "COMPARED_SIDES", ())
    found = sfmobile.estimate(long_checkpoint, device=PHONE, compare=True)
    asked, chunked, *others = found.rows
    assert (asked.content.attention, chunked.content.attention) == ("split-einsum", "split-einsum-v2")
    assert asked.content.long and not chunked.content.long
    assert asked.call_ms > chunked.call_ms
    (advice,) = [line for line in found.advice() if "split-einsum-v2" in line]
    assert advice.startswith("Choose --attention split-einsum-v2") and "isn't the default because" in advice
    assert [row.content.bits for row in others] == [None, 8, 4]
    sizes = {row.content.bits: row.disk for row in (asked, *others)}
    assert sizes[4] < sizes[6] < sizes[8] < sizes[None]
    assert "Side by side on iPhone 12" in str(found)


def test_a_comparison_changes_one_thing_at_a_time(tiny_checkpoint: Checkpoint) -> None:
    asked = ExportOptions(bits=6, attention="split-einsum")
    found = estimation._compared(tiny_checkpoint, asked)
    assert [one.attention for one in found[:2]] == ["original", "split-einsum-v2"]
    assert [one.bits for one in found[2:5]] == [None, 8, 4]
    assert [one.latent_size for one in found[5:]] == [(6, 6), (4, 4)]
    for one in found:
        same = [getattr(one, name) == getattr(asked, name) for name in ("attention", "bits", "latent_size")]
        assert same.count(False) == 1


def test_a_budget_says_how_many_steps_there_is_room_for(tiny_checkpoint: Checkpoint) -> None:
    found = sfmobile.estimate(tiny_checkpoint, device=PHONE)
    row = found.rows[0]
    short = sfmobile.estimate(tiny_checkpoint, device=PHONE, budget=(row.once_ms + 2.5 * row.call_ms) / 1e3)
    assert any("room for 2 steps" in line for line in short.advice())
    none = sfmobile.estimate(tiny_checkpoint, device=PHONE, budget=(row.once_ms + 0.5 * row.call_ms) / 1e3)
    assert any("Not even one step fits" in line for line in none.advice())


def test_sizes_are_said_in_pixels_and_slips_are_asked_about(tiny_checkpoint: Checkpoint) -> None:
    factor = tiny_checkpoint.autoencoder_layout.downsampling
    meant = fitted(ExportOptions(sizes=((24, 16), (16, 16)), multifunction=True, target="ios18"), tiny_checkpoint)
    assert meant.latent_size == (24 // factor, 16 // factor) and meant.more_latent_sizes == ((8, 8),)
    assert fitted(ExportOptions(sizes=((128, 128),)), tiny_checkpoint).latent_size == (64, 64)
    with pytest.raises(UsageError, match=r"Latents of 64x64 are pictures of 128x128 pixels .* --size 64x64"):
        sfmobile.estimate(tiny_checkpoint, device=PHONE, latent_size=(64, 64))
    with pytest.raises(UsageError, match=r"multiples of 2 pixels; the nearest is 16x16"):
        sfmobile.estimate(tiny_checkpoint, device=PHONE, size=(15, 16))
    with pytest.raises(UsageError, match="A size in pixels and one in latents"):
        sfmobile.estimate(tiny_checkpoint, device=PHONE, size=(16, 16), latent_size=(8, 8))


def test_it_prints_its_verdict_first(tiny_exports: SharedExports, tiny_checkpoint: Checkpoint) -> None:
    lines = str(sfmobile.estimate(tiny_checkpoint, device="iPhone 14 Pro")).splitlines()
    assert lines[0].startswith("tiny on iPhone 14 Pro (A16, 6 GB), not exported yet: 6 bits, split-einsum, latents 8x8")
    assert [line.split(":")[0] for line in lines[1:4]] == ["Size", "Memory", "Time"]
    assert len(lines) <= 10
