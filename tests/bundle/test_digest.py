"""The Manifest.json of packages: compared by what it says, and left as it is by coremltools."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import coremltools as ct
import pytest
from coremltools.libmodelpackage import ModelPackage

from sfmobile.bundle.digest import digest_file, is_listing, listing_text
from sfmobile.bundle.directory import Bundle, BundleError, check_file
from sfmobile.bundle.manifest import FileRecord
from sfmobile.export.options import ExportOptions
from sfmobile.mlpackage.package import write_package_manifest
from tests.exported import MULTIFUNCTION, SharedExports

LISTING = "X.mlpackage/Manifest.json"
OPTIONS = {
    "plain": ExportOptions(),
    "chunked": ExportOptions(bits=6, guidance_batch=1, chunks=2),
    "multifunction": MULTIFUNCTION,
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_bundle_is_whole_after_coremltools_opened_every_package(
    tiny_exports: SharedExports, tmp_path: Path, kind: str
) -> None:
    bundle = Bundle.open(shutil.copytree(tiny_exports(OPTIONS[kind]).root, tmp_path / "bundle"))
    before = {relative: (bundle.root / relative).read_bytes() for relative in bundle.files()}
    packages = sorted(bundle.root.rglob("*.mlpackage"))
    assert len(packages) == {"plain": 3, "chunked": 4, "multifunction": 3}[kind]
    for package in packages:
        model = ct.models.MLModel(str(package), skip_model_load=True)
        assert model.get_spec().WhichOneof("Type") == "mlProgram"
        del model
        ModelPackage(str(package)).getRootModel()
    assert {relative: (bundle.root / relative).read_bytes() for relative in bundle.files()} == before
    Bundle.open(bundle.root, check="full")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package of no program, shaped so that coremltools opens it."""
    path = tmp_path / "X.mlpackage"
    weights = path / "Data/com.apple.CoreML/weights"
    weights.mkdir(parents=True)
    (weights.parent / "model.mlmodel").write_bytes(b"model")
    write_package_manifest(path)
    return path


def written_by_0_1_0(package: Path) -> str:
    """The model's entry first, whatever its identifier."""
    listing = json.loads((package / "Manifest.json").read_text())
    entries = listing["itemInfoEntries"]
    model, weights = sorted(entries, key=lambda identifier: entries[identifier]["name"])
    assert model > weights
    return (
        json.dumps({**listing, "itemInfoEntries": {name: entries[name] for name in (model, weights)}}, indent=4) + "\n"
    )


def test_a_bundle_of_an_earlier_version_is_whole_before_and_after_coremltools_opened_it(package: Path) -> None:
    file = package / "Manifest.json"
    file.write_text(written_by_0_1_0(package))
    record, before = digest_file(file), file.read_bytes()
    check_file(package.parent, LISTING, record)
    ModelPackage(str(package)).getRootModel()
    assert file.read_bytes() != before
    check_file(package.parent, LISTING, record)


@pytest.mark.parametrize("check", ["full", "sizes"])
@pytest.mark.parametrize(
    "spelling",
    [
        lambda listing: json.dumps(listing),
        lambda listing: json.dumps(dict(reversed(listing.items())), indent=1),
        lambda listing: listing_text(listing).replace("/", "\\/"),
    ],
    ids=["compact", "reversed", "escaped"],
)
def test_any_spelling_of_what_was_recorded_will_do(package: Path, spelling, check) -> None:  # type: ignore[no-untyped-def]
    file = package / "Manifest.json"
    record = digest_file(file)
    file.write_text(spelling(json.loads(file.read_text())))
    assert digest_file(file) != record
    check_file(package.parent, LISTING, record, check)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace("weights", "Weights"), "wrong_checksum"),
        (lambda text: text.replace("com.apple.CoreML/model.mlmodel", "other.mlmodel"), "wrong_size"),
        (lambda text: text[:-9], "wrong_size"),
        (lambda text: text.replace("{", "[", 1), "wrong_checksum"),
        (lambda text: "[" * len(text), "wrong_checksum"),
        (lambda text: '["' + "\\ud800" + '"]' + " " * (len(text) - 10), "wrong_checksum"),
    ],
    ids=["renamed", "elsewhere", "truncated", "broken", "nested", "half a character"],
)
def test_another_content_is_refused(package: Path, change, reason: str) -> None:  # type: ignore[no-untyped-def]
    file = package / "Manifest.json"
    record = digest_file(file)
    file.write_text(change(file.read_text()))
    with pytest.raises(BundleError) as raised:
        check_file(package.parent, LISTING, record)
    assert raised.value.reason == reason


def test_no_other_file_is_compared_by_what_it_says(tmp_path: Path) -> None:
    assert is_listing(LISTING) and is_listing("UNet/UNet1.mlpackage/Manifest.json")
    for relative in ("Manifest.json", "tokenizer/vocab.json", "X.mlpackage/Data/Manifest.json"):
        assert not is_listing(relative)
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer/vocab.json").write_text('{"a": 0, "b": 1}')
    record = FileRecord(bytes=16, sha256=digest_file(tmp_path / "tokenizer/vocab.json").sha256)
    (tmp_path / "tokenizer/vocab.json").write_text('{"b": 1, "a": 0}')
    with pytest.raises(BundleError):
        check_file(tmp_path, "tokenizer/vocab.json", record)
