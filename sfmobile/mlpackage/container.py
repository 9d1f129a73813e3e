"""Where a model's message comes from: an .mlpackage, a single .mlmodel file, or an .mlmodelc compiled by Xcode."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, RootModel

from sfmobile.bundle.digest import LISTING_FILE
from sfmobile.errors import ArtifactError, UnavailableError
from sfmobile.files import open_regular, read_model
from sfmobile.mlpackage import miltext, schema
from sfmobile.mlpackage.weight_file import WeightFiles, check_pointer

DATA_FOLDER = "Data"
COMPILED_PROGRAM = "model.mil"
COMPILED_METADATA = "metadata.json"
MEND = "copy or download the model anew, or export it again"
PIPELINES = ("pipeline", "pipelineClassifier", "pipelineRegressor")
# What `import coremltools` calls the kinds of models that aren't programs, in words.
_WORDS = {
    "neuralNetwork": "a neural network of the kind before ML Programs",
    "neuralNetworkClassifier": "a neural network classifier of the kind before ML Programs",
    "neuralNetworkRegressor": "a neural network regressor of the kind before ML Programs",
    "treeEnsembleClassifier": "a tree ensemble",
    "treeEnsembleRegressor": "a tree ensemble",
    "supportVectorClassifier": "a support vector machine",
    "supportVectorRegressor": "a support vector machine",
    "glmClassifier": "a linear model",
    "glmRegressor": "a linear model",
    "kNearestNeighborsClassifier": "a nearest-neighbour classifier",
    "visionFeaturePrint": "a network that comes with the operating system",
    "audioFeaturePrint": "a network that comes with the operating system",
    "customModel": "code of an app",
}


class Item(BaseModel):
    """A file or folder of a package, relative to its data folder."""

    path: str


class Listing(BaseModel):
    """What is read of a package's Manifest.json."""

    itemInfoEntries: dict[str, Item]
    rootModelIdentifier: str


@dataclass(frozen=True)
class Container:
    """A Model message, and the files that its programs keep weights in."""

    path: Path
    model: Any
    weights: WeightFiles

    @property
    def kind(self) -> str:
        """Which of the message's kinds of models it is: "mlProgram", "pipeline", "neuralNetwork"."""
        return str(self.model.WhichOneof("Type") or "empty")


def open_container(path: Path) -> Container:
    """Read a model, whatever it is kept in.

    Raises `ArtifactError` if it is missing, truncated or altered, or no model, `UnavailableError` for what was
    compiled from another kind than an ML Program.
    """
    if path.is_dir() and path.suffix == ".mlmodelc":
        return Container(path, _compiled(path), WeightFiles(path))
    file = path if path.is_file() and path.suffix == ".mlmodel" else _model_file(path)
    return Container(path, _read_model(file), WeightFiles(file.parent))


def stage_containers(container: Container) -> list[Container]:
    """The stages of a pipeline, as models of their own that share its weights."""
    message = getattr(container.model, container.kind)
    models = message.models if container.kind == "pipeline" else message.pipeline.models
    return [Container(container.path, model, container.weights) for model in models]


def no_program(path: Path, kind: str) -> ArtifactError:
    """The error about a model that isn't an ML Program."""
    words = f"{_WORDS[kind]} ({kind})" if kind in _WORDS else f"a model of kind '{kind}'"
    mend = '; convert its source again with coremltools\' convert_to="mlprogram"' if "Network" in kind else ""
    return ArtifactError(f"{path} holds {words}; expected an ML Program (mlProgram){mend}.")


def _model_file(package: Path) -> Path:
    """The .mlmodel inside a package, found through its Manifest.json."""
    if not package.is_dir():
        raise ArtifactError(f"{package} is missing; expected an .mlpackage directory.")
    file = package / LISTING_FILE
    if not file.exists():
        raise ArtifactError(f"{package} is no .mlpackage: its {LISTING_FILE} is missing; {MEND}.")
    check_pointer(file)
    listing = read_model(file, Listing, "the manifest of an .mlpackage", MEND)
    root = listing.itemInfoEntries.get(listing.rootModelIdentifier)
    if root is None:
        raise ArtifactError(
            f"'{file}' names no file for its model: expected an entry '{listing.rootModelIdentifier}'; {MEND}."
        )
    if Path(root.path).is_absolute() or ".." in Path(root.path).parts:
        raise ArtifactError(f"'{file}' names '{root.path}', which isn't inside the package; {MEND}.")
    return package / DATA_FOLDER / root.path


def _read_model(path: Path) -> Any:
    """The Model message of a .mlmodel file."""
    from google.protobuf.message import DecodeError

    model = schema.model().Model()
    try:
        check_pointer(path)
        with open_regular(path) as file:
            model.ParseFromString(file.read())
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; {MEND}.") from None
    except OSError as error:
        raise ArtifactError(f"{path} can't be read ({error.strerror}); {MEND}.") from error
    except DecodeError as error:
        raise ArtifactError(f"{path} is truncated or altered: {error}; {MEND}.") from error
    return model


def _compiled(path: Path) -> Any:
    """The Model message of a compiled model: its program from text, its pictures from the metadata beside it."""
    file = path / COMPILED_PROGRAM
    if not file.is_file():
        networks = sorted(one.name for one in path.rglob("*.espresso.net"))
        if networks:
            raise UnavailableError(
                f"{path} was compiled from a neural network of the kind before ML Programs ({networks[0]}), whose "
                "compiled form isn't documented; take the .mlmodel it was compiled from."
            )
        raise ArtifactError(f"{path} has no {COMPILED_PROGRAM}; expected a compiled ML Program; {MEND}.")
    check_pointer(file)
    model = schema.model().Model()
    try:
        model.mlProgram.CopyFrom(miltext.parse_program(file.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{file} is truncated or altered: {error}; {MEND}.") from error
    metadata = path / COMPILED_METADATA
    if metadata.is_file():
        _describe(model, read_model(metadata, _Metadata, "the metadata of a compiled model", MEND))
    return model


class _Metadata(RootModel[list[dict[str, Any]]]):
    """metadata.json of a compiled model: one record."""


def _describe(model: Any, metadata: _Metadata) -> None:
    """Add the pictures of a compiled model's metadata to its description; arrays are as the program declares them."""
    spaces = {"RGB": 20, "BGR": 30, "Grayscale": 10, "GRAYSCALE": 10}
    for record in metadata.root[:1]:
        for key, features in (("inputSchema", model.description.input), ("outputSchema", model.description.output)):
            for one in record.get(key) or ():
                space = spaces.get(str(one.get("colorspace")))
                sizes = [str(one.get(side, "")) for side in ("width", "height")]
                if one.get("type") == "Image" and space is not None and all(size.isdigit() for size in sizes):
                    feature = features.add(name=str(one.get("name")))
                    feature.type.isOptional = str(one.get("isOptional")) == "1"
                    image = feature.type.imageType
                    image.width, image.height, image.colorSpace = int(sizes[0]), int(sizes[1]), space
