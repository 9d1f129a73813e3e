from __future__ import annotations

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
from sfmobile.checkpoint.hub import open_checkpoint, weight_patterns
from sfmobile.errors import ArtifactError, SfmobileError, UnavailableError, UsageError

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
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
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]


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
    return ModelInfo(id=SD15, siblings=[{"rfilename": name} for name in files])


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
        asked.extend(allow_patterns)
        assert revision == "main"
        return str(tiny_checkpoint.root)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: repository_of(SD15_FILES))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert open_checkpoint(SD15, "main").name == SD15
    assert {"model_index.json", "tokenizer/*", "unet/diffusion_pytorch_model.safetensors"} <= set(asked)
    assert not any("bin" in pattern or "fp16" in pattern for pattern in asked)


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
