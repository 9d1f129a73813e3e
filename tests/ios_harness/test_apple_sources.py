"""The sources that need Apple's frameworks, type-checked here against stubs that declare just the API they use."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
HARNESS = REPOSITORY / "ios_harness"
STUBS = Path(__file__).parent / "stubs"
# In the package's build folder: the toolchain may see nothing outside of the repository.
MODULES = REPOSITORY / ".build/stubs"
KIT = REPOSITORY / ".build/debug/Modules"
ARGUMENT_PARSER = HARNESS / ".build/debug/Modules"


def swiftc(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [
        str(REPOSITORY / ".ci/swift-toolchain"),
        *("run", "swiftc", "-swift-version", "6", "-warnings-as-errors"),
        *("-I", str(MODULES), "-I", str(KIT), "-I", str(ARGUMENT_PARSER)),
        *(str(argument) for argument in arguments),
    ]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def emit_module(name: str, *sources: Path) -> None:
    done = swiftc(
        "-parse-as-library", "-emit-module", "-module-name", name, "-o", MODULES / f"{name}.swiftmodule", *sources
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module", autouse=True)
def stub_modules() -> None:
    MODULES.mkdir(parents=True, exist_ok=True)
    for name in (
        "Darwin",
        "CoreVideo",
        "CoreGraphics",
        "os",
        "Photos",
        "ImageIO",
        "CoreML",
        "UIKit",
        "SwiftUI",
        "PhotosUI",
    ):
        emit_module(name, STUBS / f"{name}.swift")
    emit_module("SnapFusionCoreML", *sorted((HARNESS / "Sources/SnapFusionCoreML").glob("*.swift")))


@pytest.mark.parametrize(
    ("module", "folder", "options"),
    [
        ("SFBench", "App", ("-parse-as-library",)),
        ("SnapFusionExample", "Example", ("-parse-as-library",)),
        ("PerformanceTests", "PerformanceTests", ("-parse-as-library", STUBS / "XCTAttachment.swift")),
        ("SnapFusionCoreML", "Sources/SnapFusionCoreML", ("-parse-as-library",)),
        ("sfbench", "Sources/sfbench", ()),
    ],
)
def test_sources_for_apples_systems_type_check(module: str, folder: str, options: tuple[object, ...]) -> None:
    sources = sorted((HARNESS / folder).glob("*.swift"))
    # As far as the checks of data races, which come behind those of types.
    done = swiftc("-emit-sil", "-wmo", "-o", "/dev/null", "-module-name", module, *options, *sources)
    assert done.returncode == 0, done.stderr


def test_the_readmes_usage_type_checks() -> None:
    (usage,) = re.findall(r"```swift\n(.*?)```", (HARNESS / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(usage.strip().splitlines()) <= 14
    file = MODULES / "Usage.swift"
    file.write_text(usage)
    done = swiftc("-emit-sil", "-wmo", "-o", "/dev/null", "-module-name", "Usage", "-parse-as-library", file)
    assert done.returncode == 0, done.stderr


def test_every_stub_names_its_public_source() -> None:
    """Above each declaration, with only attributes in between."""
    kinds = "struct|class|enum|protocol|typealias|func|let|var|extension"
    declaration = re.compile(rf"(?:public |open )?(?:final )?(?:{kinds})\b")
    source = re.compile(r"// Source: (?:developer\.apple\.com/documentation/|github\.com/apple-oss-distributions/)\S+")
    checked = 0
    for stub in sorted(STUBS.glob("*.swift")):
        lines = stub.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            if not declaration.match(line):
                continue
            above = number - 1
            while lines[above].startswith("@"):
                above -= 1
            assert source.match(lines[above]), f"{stub.name}:{number + 1}: {line}"
            checked += 1
    assert checked > 80


def test_the_check_sees_a_call_that_core_ml_does_not_have() -> None:
    wrong = MODULES / "Wrong.swift"
    wrong.write_text(
        "import CoreML\nfunc load(_ url: URL) throws -> MLModel { try MLModel(contentsOf: url, units: .all) }\n"
    )
    done = swiftc("-typecheck", "-parse-as-library", wrong)
    assert done.returncode != 0
    assert "MLModel" in done.stderr
