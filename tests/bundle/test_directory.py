from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfmobile.bundle.directory import Bundle, BundleError, read_vector, reports_folder
from sfmobile.bundle.pipeline import TEXT_TO_IMAGE
from sfmobile.errors import ArtifactError
from tests.bundle.mutate import mutate
from tests.bundle.sample import BROKEN, SAMPLE, write_sample

CASES = json.loads(BROKEN.read_text(encoding="utf-8"))["cases"]


@pytest.fixture
def bundle_root(tmp_path: Path) -> Path:
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(SAMPLE / "manifest.json", tmp_path / "elsewhere.json")
    return Path(shutil.copytree(SAMPLE, tmp_path / "bundle"))


def test_committed_sample_is_what_the_writer_writes(tmp_path: Path) -> None:
    write_sample(tmp_path / "sample")

    def contents(root: Path) -> dict[str, bytes]:
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    assert contents(tmp_path / "sample") == contents(SAMPLE)


def test_whole_bundle_opens_and_finds_its_parts(bundle_root: Path) -> None:
    bundle = Bundle.open(bundle_root)
    assert bundle.package("unet") == bundle_root / "UNet.mlpackage"
    assert set(bundle.manifest.components) == set(TEXT_TO_IMAGE)
    assert (bundle.tokenizer_dir / "merges.txt").is_file()
    np.testing.assert_array_equal(bundle.golden("latents"), np.arange(4, dtype=np.float32))


def test_progress_counts_every_byte_once(bundle_root: Path) -> None:
    pieces: list[int] = []
    bundle = Bundle.open(bundle_root, advance=pieces.append)
    assert sum(pieces) == sum(record.bytes for record in bundle.files().values())


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_damaged_bundle_is_refused_for_the_stated_reason(bundle_root: Path, case: dict) -> None:
    mutate(bundle_root, case)
    with pytest.raises(BundleError) as raised:
        Bundle.open(bundle_root)
    assert raised.value.reason == case["reason"]
    assert raised.value.exit_code == 4
    message = str(raised.value)
    assert str(bundle_root) in message and message.endswith(".") and "\n" not in message


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_comparing_sizes_finds_all_but_changed_bytes(bundle_root: Path, case: dict) -> None:
    mutate(bundle_root, case)
    if case.get("full_only"):
        Bundle.open(bundle_root, check="sizes")
        return
    with pytest.raises(BundleError) as raised:
        Bundle.open(bundle_root, check="sizes")
    assert raised.value.reason == case["reason"]


def test_future_manifest_says_which_version_is_read(bundle_root: Path) -> None:
    mutate(bundle_root, {"op": "set", "pointer": "/schema_version", "value": 7})
    with pytest.raises(ArtifactError, match=r"schema_version 7 but this sfmobile reads 2; upgrade"):
        Bundle.open(bundle_root)


def test_link_within_the_bundle_is_allowed(bundle_root: Path) -> None:
    vocab = bundle_root / "tokenizer/vocab.json"
    vocab.rename(bundle_root / "tokenizer/real.json")
    vocab.symlink_to("real.json")
    assert Bundle.open(bundle_root).tokenizer_dir == bundle_root / "tokenizer"


def test_bundle_reached_through_a_link_opens(bundle_root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(bundle_root)
    assert Bundle.open(tmp_path / "alias").manifest.name == "sample"


def test_links_in_a_circle_are_an_error_not_a_crash(bundle_root: Path) -> None:
    vocab = bundle_root / "tokenizer/vocab.json"
    vocab.unlink()
    vocab.symlink_to("vocab.json")
    with pytest.raises(BundleError):
        Bundle.open(bundle_root)


def test_a_reports_folder_that_leads_elsewhere_is_refused(bundle_root: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(bundle_root)
    assert bundle.reports_dir == reports_folder(bundle_root) == bundle_root / "reports"
    (bundle_root / "reports").symlink_to(tmp_path / "elsewhere")
    # What it holds is none of the manifest's files, so that the bundle itself may be used.
    Bundle.open(bundle_root)
    with pytest.raises(BundleError, match=r"reports' is a link that leaves .*; remove the link") as raised:
        _ = bundle.reports_dir
    assert raised.value.reason == "link_outside"
    (bundle_root / "reports").unlink()
    (bundle_root / "kept").mkdir()
    (bundle_root / "reports").symlink_to("kept")
    assert bundle.reports_dir == bundle_root / "reports"


@pytest.mark.parametrize("found", ["nothing", "a file"])
def test_path_that_is_no_directory_is_named(tmp_path: Path, found: str) -> None:
    path = tmp_path / "bundle"
    if found == "a file":
        path.write_text("hello")
    with pytest.raises(ArtifactError, match=f"expected a directory, found {found}"):
        Bundle.open(path)


def test_missing_component_says_what_is_there_and_how_to_get_it(bundle_root: Path) -> None:
    bundle = Bundle.open(bundle_root)
    components = {name: record for name, record in bundle.manifest.components.items() if name != "decoder"}
    smaller = Bundle(bundle_root, bundle.manifest.model_copy(update={"components": components}))
    with pytest.raises(ArtifactError, match=r"no component 'decoder' \(it has: text_encoder, unet\).*--component"):
        smaller.package("decoder")


def test_missing_golden_vector_is_an_artifact_error(bundle_root: Path) -> None:
    with pytest.raises(ArtifactError, match="no golden vector 'absent'"):
        Bundle.open(bundle_root).golden("absent")


@given(st.binary(max_size=200))
def test_any_bytes_as_manifest_end_in_a_bundle_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    (root / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError):
        Bundle.open(root)


def test_deeply_nested_manifest_is_an_error_not_a_crash(bundle_root: Path) -> None:
    (bundle_root / "manifest.json").write_text("[" * 200_000)
    with pytest.raises(BundleError) as raised:
        Bundle.open(bundle_root)
    assert raised.value.reason == "invalid_json"


def _vector(**header: object) -> bytes:
    text = repr({"descr": "<f4", "fortran_order": False, "shape": (4,)} | header).encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(16)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "is damaged"),
        (b"\x93NUMPY\x09\x00", "is damaged"),
        (_vector()[:-1], r"claims shape \(4,\) of float32 and holds 15 bytes"),
        (_vector(shape=(2**40,)), r"claims shape \(1099511627776,\)"),
        (_vector(shape=(-4,)), "holds float32 values of shape"),
        (_vector(shape=("a",)), "is damaged"),
        (_vector(descr="|O"), "holds object values"),
        (_vector(descr="<U4", shape=(1,)), "holds <U4 values"),
        (_vector(descr=[("a", "<f4")]), "holds .* values"),
        (_vector(fortran_order=True, shape=(2, 2)), "expected a golden vector"),
        (b"\x93NUMPY\x01\x00\x40\x1f" + b"(" * 8000, "is damaged"),
    ],
)
def test_a_vector_that_is_none_is_one_sentence_before_memory_is_taken(
    content: bytes, found: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=found) as refusal:
        read_vector(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)
    path.write_bytes(_vector())
    assert read_vector(path).tolist() == [0, 0, 0, 0]
