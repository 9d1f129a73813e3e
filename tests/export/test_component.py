from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path

import pytest

from sfmobile.bundle.pipeline import TEXT_TO_IMAGE
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import UsageError
from sfmobile.export.component import Setting, chosen_components, component_specs, fitted, setting_for
from sfmobile.export.options import EVERY_STEP, ExportOptions


def test_inputs_are_named_as_the_networks_arguments(tiny_checkpoint: Checkpoint) -> None:
    setting = Setting(tiny_checkpoint, (8, 8), 2)
    for name in TEXT_TO_IMAGE:
        arguments = list(inspect.signature(tiny_checkpoint.load(name).forward).parameters)
        names = [record.name for record in component_specs(tiny_checkpoint)[name].inputs(setting)]
        assert names == arguments[: len(names)]


@pytest.mark.parametrize("batch", [1, 2])
def test_one_components_output_is_the_nexts_input(tiny_checkpoint: Checkpoint, batch: int) -> None:
    setting = Setting(tiny_checkpoint, (8, 12), batch)
    (text,) = component_specs(tiny_checkpoint)["text_encoder"].outputs(setting)
    unet = {record.name: record for record in component_specs(tiny_checkpoint)["unet"].inputs(setting)}
    (prediction,) = component_specs(tiny_checkpoint)["unet"].outputs(setting)
    (latents,) = component_specs(tiny_checkpoint)["decoder"].inputs(setting)
    assert unet["encoder_hidden_states"].shape == (batch, *text.shape[1:])
    assert prediction.shape == unet["latents"].shape == (batch, *latents.shape[1:])
    (image,) = component_specs(tiny_checkpoint)["decoder"].outputs(setting)
    factor = tiny_checkpoint.autoencoder_layout.downsampling
    assert image.shape == (1, 3, 8 * factor, 12 * factor)


def test_every_input_and_output_is_described(tiny_checkpoint: Checkpoint) -> None:
    setting = Setting(tiny_checkpoint, (8, 8), 2)
    for spec in component_specs(tiny_checkpoint).values():
        for record in (*spec.inputs(setting), *spec.outputs(setting)):
            assert record.description.endswith(".") and len(record.description) > 15


def test_latent_size_defaults_to_the_checkpoints(tiny_checkpoint: Checkpoint) -> None:
    assert setting_for(tiny_checkpoint, ExportOptions()).latent_size == tiny_checkpoint.latent_size


@pytest.mark.parametrize(
    ("size", "sentence"), [((7, 8), "multiples of 2"), ((0, 8), "multiples"), ((8, 514), "at most 512")]
)
def test_latent_size_that_fits_no_layout_or_memory_is_refused(
    tiny_checkpoint: Checkpoint, size: tuple[int, int], sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        setting_for(tiny_checkpoint, ExportOptions(latent_size=size))


def test_a_unet_that_takes_the_guidance_scale_is_called_with_the_prompt_alone(
    tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(tiny_checkpoint.root, tmp_path / "conditioned"))
    path = root / "unet" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "time_cond_proj_dim": 64}))
    checkpoint = Checkpoint.open(root)
    options = fitted(ExportOptions(target="ios18", multifunction=True), checkpoint)
    setting = setting_for(checkpoint, options)
    inputs = {record.name: record.shape for record in component_specs(checkpoint)["unet"].inputs(setting)}
    assert inputs["guidance_embedding"] == (1, 64, 1, 1) and inputs["latents"][0] == 1
    assert [batch for _, _, batch in options.functions(EVERY_STEP, setting.latent_size)] == [1]


def test_components_are_those_of_the_pipeline(tiny_checkpoint: Checkpoint) -> None:
    assert chosen_components(tiny_checkpoint, ExportOptions()) == TEXT_TO_IMAGE
    assert chosen_components(tiny_checkpoint, ExportOptions(components=("decoder", "unet"))) == ("unet", "decoder")
    with pytest.raises(UsageError, match="Unknown component 'vae'; expected one of text_encoder, unet, decoder"):
        chosen_components(tiny_checkpoint, ExportOptions(components=("vae",)))
