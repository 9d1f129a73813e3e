"""Another autoencoder in place of a checkpoint's: a directory of diffusers' format, or a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sfmobile.checkpoint.config import Json, read_config
from sfmobile.checkpoint.safetensors_file import SafetensorsFile
from sfmobile.checkpoint.single_file import RenamedWeights, autoencoder
from sfmobile.checkpoint.weights import STEMS, StoredWeights, WeightFiles, weight_files
from sfmobile.errors import ArtifactError
from sfmobile.files import sha256_of_file, sha256_of_value

CONFIG = "config.json"


@dataclass(frozen=True)
class StoredAutoencoder:
    """Config, as diffusers writes it, with the file that says so, and weights. digest: of both."""

    path: Path
    config: Json
    file: Path
    weights: StoredWeights
    digest: str


def read_autoencoder(path: Path) -> StoredAutoencoder:
    """The autoencoder at `path`: a directory with `config.json`, a checkpoint's with `vae/`, or a single file.

    Raises `ArtifactError` for what is none.
    """
    if path.is_dir():
        folder = next((one for one in (path, path / "vae") if (one / CONFIG).is_file()), None)
        if folder is None:
            raise ArtifactError(
                f"'{path}' holds no autoencoder: expected {CONFIG} in it, or in vae/; give a directory that has one, "
                "or a .safetensors file."
            )
        config, files = read_config(folder / CONFIG), sorted(weight_files(folder, STEMS["vae"]))
        weights: StoredWeights = WeightFiles(folder, STEMS["vae"])
        return StoredAutoencoder(path, config, folder / CONFIG, weights, _digest(config, files))
    file = SafetensorsFile(path, "an autoencoder")
    if any(name.startswith(("decoder.mid_block.", "encoder.mid_block.")) for name in file):
        if not (path.parent / CONFIG).is_file():
            raise ArtifactError(
                f"{path} has diffusers' names, whose {CONFIG} belongs beside it and is missing; give the directory "
                "that holds both."
            )
        return read_autoencoder(path.parent)
    prefix = next((one for one in ("first_stage_model.", "") if f"{one}decoder.conv_in.weight" in file), None)
    if prefix is None:
        raise ArtifactError(f"{path} holds no autoencoder ('decoder.conv_in.weight' is missing); give one with --vae.")
    config, places = autoencoder(file, prefix)
    return StoredAutoencoder(path, config, path, RenamedWeights(file, places), _digest(config, [path]))


def _digest(config: Json, files: list[Path]) -> str:
    return sha256_of_value({"config": config, "weights": [sha256_of_file(file) for file in files]})
