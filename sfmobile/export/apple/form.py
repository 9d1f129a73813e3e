"""The folder of a bundle that Apple's Swift package loads once its packages are compiled on a Mac.

BUNDLE/apple/
TextEncoder.mlpackage, Unet.mlpackage (or UnetChunk1, UnetChunk2), VAEDecoder.mlpackage, VAEEncoder.mlpackage
Resources/vocab.json, merges.txt   and, once compiled, an .mlmodelc for each package
README.md                          the command that compiles, and what to tell Apple's pipeline
form.json                          which bundle it was made of
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sfmobile.bundle.pipeline import TextCondition
from sfmobile.bundle.store import disk_errors, remove
from sfmobile.errors import ArtifactError, GateError, UsageError
from sfmobile.export.apple.adapters import Adapter, adapter_of
from sfmobile.export.apple.splice import FORM, splice
from sfmobile.files import StrictModel, json_text, read_model, sha256_of_value
from sfmobile.observer import Observer
from sfmobile.runtime.model import Model
from sfmobile.runtime.opening import open_runtime
from sfmobile.sampling.time_embedding import sinusoid
from sfmobile.signal import psnr

if TYPE_CHECKING:
    from sfmobile.bundle.directory import Bundle
    from sfmobile.bundle.manifest import ComponentName, Manifest
    from sfmobile.bundle.pipeline import PipelineRecord
    from sfmobile.export.options import ExportOptions

FOLDER, RESOURCES = "apple", "Resources"
RECORD_FILE, GUIDE_FILE = "form.json", "README.md"
TOKENIZER_FILES = ("vocab.json", "merges.txt")
COMPILE = f'for package in *.mlpackage; do xcrun coremlcompiler compile "$package" {RESOURCES}; done'
# What apple/ml-stable-diffusion's samplers and decoder have written into them.
BETAS = ("scaled_linear", 0.00085, 0.012, 1000)
SCALING_FACTOR = 0.18215
# The two programs differ by the sinusoid's last bits, rounded to float16: full size agrees far above.
CHECK_DB = 60.0
CHECKED_TIMESTEPS = (981.0, 1.0)


class FormRecord(StrictModel):
    """Which bundle a folder was made of."""

    form: str
    bundle_sha256: str


@dataclass(frozen=True)
class AppleForm:
    """What was written. packages: by component, more than one for chunks. notes: what Apple's pipeline must be told,
    and what it can't do as this bundle does. agreement_db: with the bundle's own packages, by component."""

    folder: Path
    packages: Mapping[ComponentName, tuple[Path, ...]]
    notes: tuple[str, ...]
    agreement_db: Mapping[ComponentName, float]

    @property
    def command(self) -> str:
        """What compiles the packages on a Mac."""
        return f"cd {shlex.quote(str(self.folder))} && {COMPILE}"


def refuse_misfits(options: ExportOptions, pipeline: PipelineRecord) -> None:
    """Raise `UsageError` for an export that Apple's form can't be made of."""
    if options.format != "mlprogram":
        raise UsageError("Apple's form is of Core ML packages; leave --format out.")
    if options.multifunction or options.multifunction_decoder:
        raise UsageError("Apple's pipeline knows no packages of several functions; leave --multifunction out.")
    if options.guidance_batch != 2:
        raise UsageError("Apple's pipeline predicts both halves of guidance in one call; leave --guidance-batch out.")
    if options.chunks > 2:
        raise UsageError(f"Apple's pipeline takes a UNet whole or in 2 chunks, not in {options.chunks}.")
    if len(pipeline.text_encoders) != 1:
        raise UsageError(f"Apple's pipeline has one text encoder, this model {len(pipeline.text_encoders)}.")
    for condition in pipeline.conditions:
        if not isinstance(condition, TextCondition):
            raise UsageError(
                f"Apple's pipeline feeds a UNet latents, a timestep and text; this one takes '{condition.kind}' too."
            )


def write_apple_form(bundle: Bundle, observer: Observer | None = None) -> AppleForm:
    """Write `bundle`'s folder in Apple's form and compare its packages with the bundle's, on the mil runtime.

    Raises `UsageError` if the folder holds something else, `GateError` if a package doesn't give what the bundle's
    gives, `UnavailableError` for a full disk.
    """
    observer, folder = observer or Observer(), bundle.root / FOLDER
    refuse_strangers(folder)
    adapters = {
        name: adapter
        for name in bundle.manifest.components
        if (adapter := adapter_of(bundle.manifest, name)) is not None
    }
    draft = bundle.root / f".{FOLDER}.partial"
    remove(draft)
    notes = notes_of(bundle.manifest)
    with disk_errors(folder):
        (draft / RESOURCES).mkdir(parents=True)
        packages = {name: _write(bundle, name, adapter, draft) for name, adapter in adapters.items()}
        for file in TOKENIZER_FILES:
            shutil.copyfile(bundle.tokenizer_dir / file, draft / RESOURCES / file)
        record = FormRecord(form=FORM, bundle_sha256=digest_of(bundle.manifest))
        (draft / RECORD_FILE).write_text(json_text(record), encoding="utf-8")
        (draft / GUIDE_FILE).write_text(_guide(bundle.manifest, notes), encoding="utf-8")
        observer.start("Comparing Apple's form with the bundle", len(packages))
        found = {}
        for name, paths in packages.items():
            found[name] = compare(bundle, name, paths)
            observer.advance(1)
        remove(folder)
        draft.rename(folder)
    moved = {name: tuple(folder / path.name for path in paths) for name, paths in packages.items()}
    return AppleForm(folder, moved, notes, found)


def drop_stale(bundle: Bundle) -> bool:
    """Remove a folder that was made of another bundle than the one in its place now; whether there was one."""
    folder = bundle.root / FOLDER
    if not is_form(folder):
        return False
    record = read_model(folder / RECORD_FILE, FormRecord, "what the folder was made of", "remove the folder")
    if record.bundle_sha256 == digest_of(bundle.manifest):
        return False
    remove(folder)
    return True


def refuse_strangers(folder: Path) -> None:
    """Raise `UsageError` if what stands at `folder` is none of ours."""
    if folder.is_symlink() or (folder.exists() and not is_form(folder)):
        raise UsageError(f"'{folder}' isn't what an export for apple leaves there; move it away.")


def is_form(folder: Path) -> bool:
    """Whether a folder is one of ours."""
    try:
        record = read_model(folder / RECORD_FILE, FormRecord, "what the folder was made of", "remove the folder")
    except ArtifactError:
        return False
    return record.form == FORM


def digest_of(manifest: Manifest) -> str:
    """Of all that the folder depends on."""
    return sha256_of_value(manifest.model_dump(mode="json", exclude={"golden", "tools", "options"}))


def notes_of(manifest: Manifest) -> tuple[str, ...]:
    """What differs in Apple's pipeline, a sentence each."""
    sampler, found = manifest.sampler, []
    if sampler.prediction_type != "epsilon":
        found.append(
            f"The UNet predicts {sampler.prediction_type} and the samplers of Apple's package take it for noise, which "
            "gives other pictures: use an app whose sampler knows."
        )
    betas = (sampler.beta_schedule, sampler.beta_start, sampler.beta_end, sampler.num_train_timesteps)
    if betas != BETAS or sampler.rescale_betas_zero_snr:
        found.append(
            f"The model's noise schedule is {betas[0]} {betas[1]:g} to {betas[2]:g} over {betas[3]} timesteps"
            f"{', with no signal in the last' if sampler.rescale_betas_zero_snr else ''}; the samplers of Apple's "
            f"package have {BETAS[0]} {BETAS[1]:g} to {BETAS[2]:g} over {BETAS[3]} written into them."
        )
    if manifest.latents.scaling_factor != SCALING_FACTOR:
        factor = f"{manifest.latents.scaling_factor:g}"
        found.append(
            f"Set decoderScaleFactor (and encoderScaleFactor) of the configuration to {factor}: its default is "
            f"{SCALING_FACTOR}."
        )
    tokenizer = manifest.tokenizer
    if tokenizer.pad_token_id != tokenizer.eos_token_id:
        found.append(
            f"Prompts are padded with token {tokenizer.pad_token_id}; Apple's tokenizer pads with the end token "
            f"{tokenizer.eos_token_id}, which gives other pictures."
        )
    own = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    added = [token for token, number in (tokenizer.added_tokens | tokenizer.exact_tokens).items() if number not in own]
    if added:
        found.append(f"Apple's tokenizer doesn't know added tokens such as '{added[0]}' and cuts them into letters.")
    left = [name for name in manifest.components if adapter_of(manifest, name) is None]
    if left:
        found.append(f"Left out, as Apple's pipeline has another form of it or none: {', '.join(left)}.")
    return tuple(found)


def compare(bundle: Bundle, name: ComponentName, packages: tuple[Path, ...]) -> float:
    """PSNR in dB of a component in Apple's form against the bundle's own, on the mil runtime and inputs from a seed.

    The rows of a UNet get timesteps of their own. Raises `GateError` below `CHECK_DB`.
    """
    adapter = adapter_of(bundle.manifest, name)
    assert adapter is not None
    generator = np.random.default_rng(0)
    given: dict[str, np.ndarray] = {}
    own: dict[str, np.ndarray] = {}
    record = bundle.manifest.components[name]
    for tensor in record.inputs:
        if tensor.dtype == "int32":
            largest = bundle.manifest.tokenizer.eos_token_id
            value = generator.integers(0, largest, tensor.shape).astype(np.int32)
            value[:, tensor.shape[1] // 2 :] = largest
        elif tensor.name == "time_embedding":
            steps = np.asarray(CHECKED_TIMESTEPS[: tensor.shape[0]], np.float32)
            value, given["timestep"] = sinusoid(steps, bundle.manifest.time_embedding), steps
        else:
            value = generator.standard_normal(tensor.shape).astype(np.float16).astype(np.float32)
        own[tensor.name] = value
    for theirs in adapter.inputs:
        source = next((key for key, new in adapter.renamed.items() if new == theirs.name), theirs.name)
        if source in own:
            given[theirs.name] = own[source].astype(np.float32)
    with open_runtime("mil", bundle).load(name) as component:
        expected = component.predict(own)[record.outputs[0].name]
    found = adapter.as_bundles(run_chain(packages, given)[adapter.outputs[0].name])
    agreement = psnr(expected, found)
    if not agreement >= CHECK_DB:
        raise GateError(
            f"{name} in Apple's form gives other values than the bundle's: {agreement:.1f} dB, expected {CHECK_DB:g} "
            "or more; nothing was written."
        )
    return agreement


def run_chain(packages: tuple[Path, ...], given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Packages one after the other on the mil runtime, as Apple's pipeline runs chunks: each is given the inputs and
    what the one before gave."""
    outputs: dict[str, np.ndarray] = {}
    for package in packages:
        model = Model(package)
        known = {**given, **outputs}
        outputs = model.predict({name: known[name] for name in model.inputs})
    return outputs


def _write(bundle: Bundle, name: ComponentName, adapter: Adapter, folder: Path) -> tuple[Path, ...]:
    """One component's packages."""
    chunks = bundle.manifest.components[name].chunks
    sources = [bundle.root / chunk.package for chunk in chunks] or [bundle.package(name)]
    numbers = [f"Chunk{index + 1}" for index in range(len(chunks))] or [""]
    paths = tuple(folder / f"{adapter.package}{number}.mlpackage" for number in numbers)
    for source, path in zip(sources, paths, strict=True):
        splice(source, path, adapter, bundle.manifest.target)
    return paths


def _guide(manifest: Manifest, notes: tuple[str, ...]) -> str:
    """The folder's README."""
    told = "".join(f"- {note}\n" for note in notes) or "- Nothing: its defaults fit this model.\n"
    size = manifest.latents.pixels_per_latent
    return f"""# {manifest.name}, for apple/ml-stable-diffusion

Compile the packages on a Mac with Xcode, in this folder:

    {COMPILE}

`{RESOURCES}` then is what Apple's Swift package and the apps built on it load, pictures of
{manifest.latents.width * size}×{manifest.latents.height * size}:

    let pipeline = try StableDiffusionPipeline(resourcesAt: resources, controlNet: [])

To tell Apple's pipeline, and what it does otherwise than this bundle:

{told}
The packages hold the programs and weights of the bundle above, which `sfmobile verify` proves; at their ends stand
Apple's names, and the sinusoid of the timestep in float32. That they give what the bundle's give was measured when they
were written, on sfmobile's own runtime. They haven't been loaded by Apple's code by those who made sfmobile.
"""
