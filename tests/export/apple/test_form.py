from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.manifest import TimeEmbeddingRecord
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import GateError, UsageError
from sfmobile.export.apple import adapters
from sfmobile.export.apple.form import AppleForm, notes_of, refuse_misfits, run_chain, write_apple_form
from sfmobile.export.options import ExportOptions
from sfmobile.mlpackage.package import COREML_FOLDER, DATA_FOLDER, WEIGHT_FILE, WEIGHTS_FOLDER
from sfmobile.runtime.model import Model
from sfmobile.signal import psnr
from tests.cli.run import run
from tests.exported import SharedExports

# The programs round their weights to float16; between two readings in float32 that is all there is.
GATE_DB = 70.0
WEIGHTS = Path(DATA_FOLDER) / COREML_FOLDER / WEIGHTS_FOLDER / WEIGHT_FILE


def own_copy(bundle: Bundle, folder: Path) -> Bundle:
    shutil.copytree(bundle.root, folder)
    return Bundle.open(folder)


@pytest.fixture(scope="module", params=[1, 2], ids=["whole", "chunks"])
def form(request, tiny_exports: SharedExports, tmp_path_factory: pytest.TempPathFactory) -> AppleForm:
    """Weights in float16, the UNet whole and in two chunks."""
    bundle = tiny_exports(ExportOptions(bits=None, chunks=request.param))
    return write_apple_form(own_copy(bundle, tmp_path_factory.mktemp("apple") / "bundle"))


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Numbers that float16 holds, so that both sides are given the same."""
    drawn: np.ndarray = np.random.default_rng(seed).standard_normal(shape).astype(np.float16).astype(np.float32)
    return drawn


def given_to(form: AppleForm, component: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return run_chain(form.packages[component], inputs)


def test_the_unet_gives_what_diffusers_gives_at_every_timestep(form: AppleForm, tiny_checkpoint: Checkpoint) -> None:
    from diffusers import UNet2DConditionModel

    theirs = UNet2DConditionModel.from_pretrained(tiny_checkpoint.root / "unet", torch_dtype=torch.float32)
    sample, states = noise((2, 4, 8, 8)), noise((2, 32, 1, 77), 1)
    for timesteps in ((981.0, 981.0), (999.0, 1.0), (0.0, 500.5)):
        steps = np.asarray(timesteps, np.float32)
        with torch.no_grad():
            rows = torch.from_numpy(states[:, :, 0].transpose(0, 2, 1).copy())
            expected = theirs(torch.from_numpy(sample), torch.from_numpy(steps), rows).sample.numpy()
        inputs = {"sample": sample, "timestep": steps, "encoder_hidden_states": states}
        found = given_to(form, "unet", inputs)["noise_pred"]
        assert psnr(expected, found) > GATE_DB


def test_the_text_encoder_gives_what_transformers_gives(form: AppleForm, tiny_checkpoint: Checkpoint) -> None:
    from transformers import CLIPTextModel

    theirs = CLIPTextModel.from_pretrained(tiny_checkpoint.root / "text_encoder", torch_dtype=torch.float32)
    end = tiny_checkpoint.tokenizer.eos_token_id
    theirs.eos_token_id = end
    ids = np.full((1, 77), end, np.float32)
    ids[0, :6] = [tiny_checkpoint.tokenizer.bos_token_id, 5, 6, 7, 8, 9]
    for tokens in (ids, np.where(ids == end, 11, ids)):
        with torch.no_grad():
            expected = theirs(torch.from_numpy(tokens.astype(np.int64)))
        found = given_to(form, "text_encoder", {"input_ids": tokens})
        assert psnr(expected.last_hidden_state.numpy(), found["last_hidden_state"]) > GATE_DB
        assert psnr(expected.pooler_output.numpy(), found["pooled_outputs"]) > GATE_DB


def test_the_decoder_gives_what_diffusers_gives(form: AppleForm, tiny_checkpoint: Checkpoint) -> None:
    from diffusers import AutoencoderKL

    theirs = AutoencoderKL.from_pretrained(tiny_checkpoint.root / "vae", torch_dtype=torch.float32)
    latents = noise((1, 4, 8, 8))
    with torch.no_grad():
        expected = theirs.decode(torch.from_numpy(latents)).sample.numpy()
    assert psnr(expected, given_to(form, "decoder", {"z": latents})["image"]) > GATE_DB


def test_the_encoder_gives_what_diffusers_gives(
    tiny_exports: SharedExports, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    from diffusers import AutoencoderKL

    bundle = tiny_exports(ExportOptions(target="ios17", components=("encoder",)))
    written = write_apple_form(own_copy(bundle, tmp_path / "bundle"))
    assert [path.name for path in written.packages["encoder"]] == ["VAEEncoder.mlpackage"]
    theirs = AutoencoderKL.from_pretrained(tiny_checkpoint.root / "vae", torch_dtype=torch.float32)
    picture = noise((1, 3, 16, 16))
    with torch.no_grad():
        expected = theirs.encode(torch.from_numpy(picture)).latent_dist.parameters.numpy()
    assert psnr(expected, given_to(written, "encoder", {"x": picture})["latent"]) > GATE_DB


def test_names_shapes_and_types_are_those_that_apples_pipeline_reads(form: AppleForm) -> None:
    unet = ["UnetChunk1", "UnetChunk2"] if len(form.packages["unet"]) == 2 else ["Unet"]
    names = {path.name for path in form.folder.iterdir()}
    assert names == {
        *(f"{name}.mlpackage" for name in ("TextEncoder", "VAEDecoder", *unet)),
        *("Resources", "README.md", "form.json"),
    }
    assert {path.name for path in (form.folder / "Resources").iterdir()} == {"vocab.json", "merges.txt"}
    declared = {
        "text_encoder": (
            {"input_ids": "fp32[1, 77]"},
            {"last_hidden_state": "fp32[1, 77, 32]", "pooled_outputs": "fp32[1, 32]"},
        ),
        "decoder": ({"z": "fp16[1, 4, 8, 8]"}, {"image": "fp32[1, 3, 16, 16]"}),
    }
    for component, (inputs, outputs) in declared.items():
        model = Model(form.packages[component][0])
        assert {name: str(type_) for name, type_ in model.inputs.items()} == inputs
        assert {name: str(type_) for name, type_ in model.outputs.items()} == outputs
    first, last = Model(form.packages["unet"][0]), Model(form.packages["unet"][-1])
    taken = {"sample": "fp16[2, 4, 8, 8]", "timestep": "fp32[2]", "encoder_hidden_states": "fp16[2, 32, 1, 77]"}
    assert taken.items() >= {n: str(t) for n, t in first.inputs.items()}.items()
    assert {"sample", "timestep"} <= set(first.inputs)
    # Apple's pipeline takes the first output it finds.
    assert {name: str(type_) for name, type_ in last.outputs.items()} == {"noise_pred": "fp32[2, 4, 8, 8]"}


def test_weights_are_the_bundles_own_files(form: AppleForm) -> None:
    bundle = Bundle.open(form.folder.parent)
    assert (form.packages["decoder"][0] / WEIGHTS).samefile(bundle.package("decoder") / WEIGHTS)
    # Only the timestep's sinusoid stands between the two programs.
    assert form.agreement_db["text_encoder"] == form.agreement_db["decoder"] == float("inf")


def test_coremltools_reads_what_was_written(form: AppleForm) -> None:
    import coremltools as ct

    for paths in form.packages.values():
        for path in paths:
            spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
            assert spec.description.metadata.userDefined["com.sfmobile.form"] == "apple/ml-stable-diffusion"


def test_another_sinusoid_is_noticed_and_nothing_is_left(
    tiny_exports: SharedExports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = own_copy(tiny_exports(ExportOptions(bits=None)), tmp_path / "bundle")
    true = adapters.frequencies

    def shifted(record: TimeEmbeddingRecord) -> np.ndarray:
        return true(record.model_copy(update={"frequency_shift": 1.0}))

    monkeypatch.setattr(adapters, "frequencies", shifted)
    with pytest.raises(GateError, match="unet in Apple's form gives other values"):
        write_apple_form(bundle)
    assert not (bundle.root / "apple").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (ExportOptions(format="onnx", bits=None), "leave --format out"),
        (ExportOptions(guidance_batch=1), "leave --guidance-batch out"),
        (ExportOptions(chunks=3), "not in 3"),
        (ExportOptions(target="ios18", multifunction=True), "leave --multifunction out"),
    ],
)
def test_what_apples_pipeline_can_not_run_is_refused(
    options: ExportOptions, problem: str, tiny_checkpoint: Checkpoint
) -> None:
    with pytest.raises(UsageError, match=problem):
        refuse_misfits(options, tiny_checkpoint.pipeline)


def test_what_apples_pipeline_does_otherwise_is_said(form: AppleForm) -> None:
    manifest = Bundle.open(form.folder.parent).manifest
    plain = manifest.sampler.model_copy(
        update={
            "prediction_type": "epsilon",
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "rescale_betas_zero_snr": False,
        }
    )
    latents = manifest.latents.model_copy(update={"scaling_factor": 0.18215})
    tokenizer = manifest.tokenizer.model_copy(
        update={"pad_token_id": manifest.tokenizer.eos_token_id, "added_tokens": {}, "exact_tokens": {}}
    )
    fitting = manifest.model_copy(update={"sampler": plain, "latents": latents, "tokenizers": {"tokenizer": tokenizer}})
    assert notes_of(fitting) == ()
    for change, note in (
        ({"sampler": plain.model_copy(update={"prediction_type": "v_prediction"})}, "take it for noise"),
        ({"sampler": plain.model_copy(update={"beta_end": 0.02})}, "noise schedule is scaled_linear 0.00085 to 0.02"),
        ({"latents": latents.model_copy(update={"scaling_factor": 1.0})}, "Set decoderScaleFactor .* to 1:"),
        ({"tokenizers": {"tokenizer": tokenizer.model_copy(update={"pad_token_id": 0})}}, "padded with token 0"),
        ({"tokenizers": {"tokenizer": tokenizer.model_copy(update={"exact_tokens": {"<cat>": 7}})}}, "'<cat>'"),
    ):
        (found,) = notes_of(fitting.model_copy(update=change))
        assert re.search(note, found), found


def test_the_command_writes_the_folder_and_takes_it_away_with_its_bundle(
    tiny_checkpoint: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "bundle"
    plain = ("export", tiny_checkpoint.root, "-o", root, "--no-golden", "--component", "decoder")
    made = run(capsys, *plain, "--for", "apple")
    assert made.code == 0, made.err
    assert f"On a Mac: cd {root}/apple && for package in" in " ".join(made.out.split())
    again = run(capsys, *plain, "--json")
    assert again.code == 0 and json.loads(again.out)["apple"] is None and (root / "apple").is_dir()
    other = run(capsys, *plain, "--bits", "none")
    assert other.code == 0 and "was of the bundle before" in " ".join(other.err.split())
    assert not (root / "apple").exists()
    (root / "apple").mkdir()
    refused = run(capsys, *plain, "--bits", "none", "--for", "apple")
    assert refused.code == 2 and "isn't what an export for apple leaves there" in refused.sentence
