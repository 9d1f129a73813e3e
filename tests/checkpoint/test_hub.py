from __future__ import annotations

import re
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.checkpoint.hub import is_here, open_checkpoint, weight_patterns
from sfmobile.checkpoint.source import Source
from sfmobile.errors import ArtifactError, SfmobileError, UnavailableError, UsageError

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
COMMIT = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
# The files of that repository which matter here.
SD15_FILES = [
    "model_index.json",
    "v1-5-pruned-emaonly.safetensors",
    "safety_checker/model.safetensors",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder/pytorch_model.bin",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
]


def test_one_precision_is_fetched_and_no_pickle() -> None:
    assert weight_patterns(SD15, SD15_FILES) == [
        "text_encoder/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ]
    asked = weight_patterns(SD15, SD15_FILES, extras=("encoder", "safety_checker"))
    assert asked == [*weight_patterns(SD15, SD15_FILES), "safety_checker/model.safetensors"]
    full = [name for name in SD15_FILES if ".fp16." not in name]
    assert weight_patterns(SD15, full) == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_full_precision_is_fetched_where_it_is_asked_for_and_there() -> None:
    found = weight_patterns(SD15, SD15_FILES, full_precision=True)
    assert found == [name for name in SD15_FILES if re.search(r"/[a-z_]+\.safetensors$", name)][1:]
    halves = [name for name in SD15_FILES if ".fp16." in name]
    assert weight_patterns(SD15, halves, full_precision=True) == halves


def test_only_what_is_asked_for_is_fetched() -> None:
    assert weight_patterns(SD15, SD15_FILES, ("unet",)) == ["unet/diffusion_pytorch_model.fp16.safetensors"]
    pickled = [name for name in SD15_FILES if not name.startswith("text_encoder/") or name.endswith(".bin")]
    assert weight_patterns(SD15, pickled, ("decoder",)) == ["vae/diffusion_pytorch_model.fp16.safetensors"]


def test_shards_and_variants_are_fetched_where_they_are_all_there_is() -> None:
    files = [
        "text_encoder/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert sorted(weight_patterns("a/b", files)) == sorted(files)


def test_a_repository_of_pickles_is_refused() -> None:
    pickles = [name for name in SD15_FILES if not name.startswith("unet/") or name.endswith(".bin")]
    with pytest.raises(ArtifactError, match=f"'{SD15}' has no unet/diffusion_pytorch_model.safetensors"):
        weight_patterns(SD15, pickles)


def hub_error(kind: type[Exception]) -> Exception:
    """An error of the Hub, whose constructor wants a response of whichever HTTP library it builds on."""
    error = kind.__new__(kind)
    error.args = ("refused",)
    return error


# The base class of the HTTP library's own errors.
TransportError = next(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception))
FAILURES: dict[str, tuple[Exception, type[SfmobileError], str]] = {
    "no route": (hub_error(TransportError), UnavailableError, "the Hugging Face Hub can't be reached"),
    "time-out": (TimeoutError("slow"), UnavailableError, "the Hugging Face Hub can't be reached"),
    "offline mode": (OfflineModeIsEnabled("offline"), UnavailableError, "the Hugging Face Hub can't be reached"),
    "server down": (hub_error(HfHubHTTPError), UnavailableError, "the Hugging Face Hub can't be reached"),
    "disk full": (OSError(28, "No space left on device"), UnavailableError, "The disk is full while downloading"),
    "gated": (hub_error(GatedRepoError), UnavailableError, "accept it on its page and log in"),
    "unknown": (
        hub_error(RepositoryNotFoundError),
        ArtifactError,
        "neither a directory here nor a model on the Hugging Face Hub",
    ),
}


def repository_of(files: list[str]) -> ModelInfo:
    return ModelInfo(id=SD15, sha=COMMIT, siblings=[{"rfilename": name} for name in files])


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failed_download_says_what_to_do(failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error, kind, sentence = FAILURES[failure]

    def fail(*_: object, **__: object) -> None:
        raise error

    def not_cached(*_: object, **__: object) -> None:
        raise LocalEntryNotFoundError("never downloaded")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", not_cached)
    with pytest.raises(kind, match=sentence):
        open_checkpoint(SD15)


def test_without_a_network_an_earlier_download_is_used(
    tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise hub_error(TransportError)

    def cached(repo_id: str, *, local_files_only: bool, **_: object) -> str:
        assert (repo_id, local_files_only) == (SD15, True)
        return str(tiny_checkpoint.root)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    checkpoint = open_checkpoint(SD15)
    assert (checkpoint.root, checkpoint.name) == (tiny_checkpoint.root, SD15)


def test_a_download_fetches_configs_tokenizer_and_weights(
    tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(_: str, *, allow_patterns: list[str], revision: str | None) -> str:
        # The configs come first, of the very commit that was listed.
        assert asked or not any("safetensors" in pattern for pattern in allow_patterns)
        asked.extend(allow_patterns)
        assert revision == COMMIT
        return str(tiny_checkpoint.root)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: repository_of(SD15_FILES))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert open_checkpoint(SD15, "main").name == SD15
    assert {"model_index.json", "tokenizer*/*", "unet/diffusion_pytorch_model.fp16.safetensors"} <= set(asked)
    assert not any("bin" in pattern or pattern.endswith("model.safetensors") for pattern in asked)


def test_weights_of_both_text_encoders_are_fetched(
    tiny_xl_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def download(_: str, *, allow_patterns: list[str], revision: str | None) -> str:
        asked.extend(allow_patterns)
        return str(tiny_xl_checkpoint.root)

    files = [*SD15_FILES, "text_encoder_2/model.fp16.safetensors", "tokenizer_2/vocab.json"]
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: repository_of(files))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert open_checkpoint(SD15, "main").pipeline.family == "stable-diffusion-xl"
    assert "text_encoder_2/model.fp16.safetensors" in asked


FOREIGN: dict[str, tuple[dict[str, str], str]] = {
    "the refiner of Stable Diffusion XL": (
        {"model_index.json": '{"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": true}'},
        "this is the refiner of Stable Diffusion XL",
    ),
    "Flux": (
        {"model_index.json": '{"_class_name": "FluxPipeline"}'},
        "this is Flux .FluxPipeline., and its network is",
    ),
    "a LoRA": (
        {"pytorch_lora_weights.safetensors": ""},
        "is a LoRA .* and no checkpoint; export the model that it was",
    ),
    "a single file": ({"v1-5.safetensors": ""}, "holds no model_index.json but the single file v1-5.safetensors"),
    "pickles": ({"model.ckpt": ""}, "holds model.ckpt and no model_index.json; sfmobile reads .safetensors"),
    "an empty repository": ({}, "is not a diffusers-format checkpoint: model_index.json is missing"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_another_model_is_refused_before_its_weights_are_fetched(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, sentence = FOREIGN[kind]

    def download(_: str, *, allow_patterns: list[str], revision: str | None) -> str:
        assert not any("safetensors" in pattern for pattern in allow_patterns)
        for name, content in files.items():
            (tmp_path / name).write_text(content)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: repository_of(list(files)))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ArtifactError, match=sentence):
        open_checkpoint(SD15)


@pytest.fixture
def snapshot(tiny_checkpoint: Checkpoint, tmp_path: Path) -> Path:
    """The tiny checkpoint as the Hub's cache holds it: links into `blobs`."""
    model = tmp_path / "hub" / "models--someone--tiny"
    folder = model / "snapshots" / COMMIT
    for index, file in enumerate(sorted(tiny_checkpoint.root.rglob("*"))):
        if file.is_file():
            blob = model / "blobs" / str(index)
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(file.read_bytes())
            link = folder / file.relative_to(tiny_checkpoint.root)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blob)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    return folder


def test_a_snapshot_of_the_cache_has_the_models_name(snapshot: Path) -> None:
    assert open_checkpoint(snapshot).name == "someone/tiny"
    with pytest.raises(ArtifactError, match=f"is a model's folder in the Hub's cache; give its snapshot, .*/{COMMIT}"):
        open_checkpoint(snapshot.parent.parent)


def test_a_recorded_commit_is_opened_from_the_cache_without_asking_the_hub(
    snapshot: Path, tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise AssertionError("the Hub was asked")

    real = huggingface_hub.snapshot_download
    cache = snapshot.parents[2]
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *names, **options: real(*names, **options, cache_dir=cache)
    )
    source = Source("someone/tiny", revision=COMMIT)
    assert is_here(source) and not is_here(Source("someone/other"))
    checkpoint = open_checkpoint(source)
    assert checkpoint.sha256("unet") == tiny_checkpoint.sha256("unet")
    assert (checkpoint.name, checkpoint.source.revision, checkpoint.source.id) == (
        "someone/tiny",
        COMMIT,
        "someone/tiny",
    )
    assert is_here(Source("someone/tiny"))


def test_a_path_is_found_again_from_another_directory(
    tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_checkpoint.root.parent)
    source = open_checkpoint(tiny_checkpoint.root.name).source
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint(source).sha256("unet") == tiny_checkpoint.sha256("unet")
    assert open_checkpoint("glyph").source.id == "glyph"


def test_a_directory_is_opened_where_it_is(tiny_checkpoint: Checkpoint) -> None:
    assert open_checkpoint(str(tiny_checkpoint.root)).root == tiny_checkpoint.root


@pytest.mark.parametrize("source", ["./absent", "absent", "/absent/checkpoint", "a/b/c"])
def test_what_can_be_no_hub_id_is_a_missing_path(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match="doesn't exist; expected a diffusers-format directory"):
        open_checkpoint(source)


def test_the_home_of_nobody_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="'~nosuchuser/x' names the home of a user who doesn't exist here"):
        open_checkpoint("~nosuchuser/x")
