"""The Xcode project, its schemes and test plans: written by hand, and there is no Xcode here to open them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from pbxproj import XcodeProject
from pbxproj.pbxsections import PBXNativeTarget

REPOSITORY = Path(__file__).resolve().parents[2]
HARNESS = REPOSITORY / "ios_harness"
PROJECT = HARNESS / "SFBench.xcodeproj"
SCHEMES = PROJECT / "xcshareddata/xcschemes"
TARGETS = {"SFBench", "SFBenchUnitTests", "SFBenchPerformanceTests"}
SOURCES = {
    "SFBench": HARNESS / "App",
    "SFBenchUnitTests": HARNESS / "Tests/SnapFusionKitTests",
    "SFBenchPerformanceTests": HARNESS / "PerformanceTests",
}
RESOURCES = {
    "SFBench": set(),
    "SFBenchUnitTests": {
        REPOSITORY / "tests/golden",
        REPOSITORY / "tests/bundle",
        REPOSITORY / "models/glyph/tokenizer",
    },
    "SFBenchPerformanceTests": {HARNESS / "Budgets/iPhone-14-Pro.json"},
}


@pytest.fixture(scope="module")
def project() -> XcodeProject:
    return XcodeProject.load(str(PROJECT / "project.pbxproj"))


@pytest.fixture(scope="module")
def objects(project: XcodeProject) -> dict[str, Any]:
    return {item.get_id(): item for item in project.objects.get_objects_in_section(*project.objects.get_sections())}


def targets(project: XcodeProject) -> dict[str, PBXNativeTarget]:
    return {target.name: target for target in project.objects.get_targets()}


def locations(project: XcodeProject, objects: dict[str, Any]) -> dict[str, Path]:
    """Where each file reference lies, by following the groups from the root."""
    found: dict[str, Path] = {}

    def walk(identifier: str, folder: Path) -> None:
        item = objects[identifier]
        if item["sourceTree"] == "BUILT_PRODUCTS_DIR":
            return
        place = folder / item["path"] if item["path"] else folder
        if item.isa == "PBXGroup":
            for child in item.children:
                walk(child, place)
        else:
            found[identifier] = Path(os.path.normpath(place))

    walk(project.objects[project.rootObject].mainGroup, HARNESS)
    return found


def phase_files(project: XcodeProject, objects: dict[str, Any], target: str, isa: str) -> list[Any]:
    phases = [objects[phase] for phase in targets(project)[target].buildPhases]
    return [objects[file] for phase in phases if phase.isa == isa for file in phase.files]


def test_every_identifier_that_is_used_is_defined(objects: dict[str, Any]) -> None:
    text = (PROJECT / "project.pbxproj").read_text(encoding="utf-8")
    used = set(re.findall(r"\b[0-9A-F]{24}\b", text))
    assert used == set(objects)


def test_every_file_reference_exists(project: XcodeProject, objects: dict[str, Any]) -> None:
    places = locations(project, objects)
    assert len(places) > 20
    assert [str(place) for place in places.values() if not place.exists()] == []


def test_every_file_reference_is_in_a_group(project: XcodeProject, objects: dict[str, Any]) -> None:
    products = {identifier for identifier, item in objects.items() if item["sourceTree"] == "BUILT_PRODUCTS_DIR"}
    references = {identifier for identifier, item in objects.items() if item.isa == "PBXFileReference"}
    assert references - products == set(locations(project, objects))


def test_every_target_compiles_exactly_its_folder(project: XcodeProject, objects: dict[str, Any]) -> None:
    assert set(targets(project)) == TARGETS
    places = locations(project, objects)
    for target, folder in SOURCES.items():
        compiled = [places[file.fileRef] for file in phase_files(project, objects, target, "PBXSourcesBuildPhase")]
        assert sorted(compiled) == sorted(folder.glob("*.swift")), target


def test_every_target_copies_exactly_its_resources(project: XcodeProject, objects: dict[str, Any]) -> None:
    places = locations(project, objects)
    for target, expected in RESOURCES.items():
        copied = [places[file.fileRef] for file in phase_files(project, objects, target, "PBXResourcesBuildPhase")]
        assert set(copied) == expected, target


def test_targets_link_products_that_the_package_has(project: XcodeProject, objects: dict[str, Any]) -> None:
    package = (HARNESS / "Package.swift").read_text(encoding="utf-8")
    products = set(re.findall(r'\.library\(name: "(\w+)"', package))
    references = [item for item in objects.values() if item.isa == "XCLocalSwiftPackageReference"]
    assert [reference.relativePath for reference in references] == ["."]
    for name, target in targets(project).items():
        declared = {objects[dependency].productName for dependency in target.packageProductDependencies}
        linked = {
            objects[file.productRef].productName
            for file in phase_files(project, objects, name, "PBXFrameworksBuildPhase")
        }
        assert declared == linked
        imported = {
            module
            for source in SOURCES[name].glob("*.swift")
            for module in re.findall(
                r"^ *(?:@testable )?import (SnapFusion\w+)", source.read_text("utf-8"), re.MULTILINE
            )
        }
        assert imported <= declared <= products, name


def test_the_tests_run_inside_the_app(project: XcodeProject, objects: dict[str, Any]) -> None:
    found = targets(project)
    for name in TARGETS - {"SFBench"}:
        assert found[name].productType == "com.apple.product-type.bundle.unit-test"
        assert [objects[item].target for item in found[name].dependencies] == [found["SFBench"].get_id()]
        for configuration in project.objects.get_configurations_on_targets(target_name=name):
            assert configuration.buildSettings["TEST_HOST"].endswith(
                "/SFBench.app/$(BUNDLE_EXECUTABLE_FOLDER_PATH)/SFBench"
            )


def test_swift_is_strict_in_every_configuration(project: XcodeProject, objects: dict[str, Any]) -> None:
    root = objects[project.rootObject]
    configurations = [objects[item] for item in objects[root.buildConfigurationList].buildConfigurations]
    assert {configuration.name for configuration in configurations} == {"Debug", "Release"}
    for configuration in configurations:
        settings = configuration.buildSettings
        assert settings["SWIFT_VERSION"] == "6.0"
        assert settings["SWIFT_STRICT_CONCURRENCY"] == "complete"
        assert settings["SWIFT_TREAT_WARNINGS_AS_ERRORS"] == "YES"
        assert locations(project, objects)[configuration.baseConfigurationReference].name == "SFBench.xcconfig"


@pytest.mark.parametrize(
    ("scheme", "configuration", "target"),
    [("Unit", "Debug", "SFBenchUnitTests"), ("Performance", "Release", "SFBenchPerformanceTests")],
)
def test_schemes_and_plans_refer_to_targets(
    project: XcodeProject, scheme: str, configuration: str, target: str
) -> None:
    names = {item.get_id(): name for name, item in targets(project).items()}
    tree = ET.parse(SCHEMES / f"{scheme}.xcscheme")
    references = tree.findall(".//BuildableReference")
    assert len(references) >= 3
    for reference in references:
        assert names[reference.attrib["BlueprintIdentifier"]] == reference.attrib["BlueprintName"]
        assert reference.attrib["ReferencedContainer"] == "container:SFBench.xcodeproj"
    action = tree.find("TestAction")
    assert action is not None
    assert action.attrib["buildConfiguration"] == configuration
    plans = [plan.attrib["reference"] for plan in action.findall(".//TestPlanReference")]
    assert plans == [f"container:{scheme}.xctestplan"]
    plan = json.loads((HARNESS / f"{scheme}.xctestplan").read_text(encoding="utf-8"))
    tested = [item["target"] for item in plan["testTargets"]]
    assert [item["name"] for item in tested] == [target]
    for item in [*tested, plan["defaultOptions"]["targetForVariableExpansion"]]:
        assert names[item["identifier"]] == item["name"]
        assert item["containerPath"] == "container:SFBench.xcodeproj"


def test_the_performance_plan_never_retries_and_keeps_what_is_attached() -> None:
    plan = json.loads((HARNESS / "Performance.xctestplan").read_text(encoding="utf-8"))
    for options in [plan["defaultOptions"], *(item["options"] for item in plan["configurations"])]:
        assert "testRepetitionMode" not in options
        assert "maximumTestRepetitions" not in options
    assert plan["defaultOptions"]["userAttachmentLifetime"] == "keepAlways"


def run_copy_phase(project: XcodeProject, objects: dict[str, Any], build: Path, bundle: str) -> Any:
    """Run the app's copy phase as Xcode would, with `ditto` replaced by `cp`."""
    phase = next(item for item in objects.values() if item.isa == "PBXShellScriptBuildPhase")
    tools = build / "bin"
    tools.mkdir(parents=True, exist_ok=True)
    (tools / "ditto").write_text('#!/bin/sh\nexec cp -R "$1" "$2"\n')
    (tools / "ditto").chmod(0o755)
    script = phase.shellScript.replace("\\n", "\n").replace('\\"', '"')
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "TARGET_BUILD_DIR": str(build),
        "UNLOCALIZED_RESOURCES_FOLDER_PATH": "SFBench.app",
        "SFBENCH_BUNDLE": bundle,
    }
    (build / "SFBench.app").mkdir(exist_ok=True)
    return subprocess.run(["/bin/sh", "-c", script], env=environment, capture_output=True, text=True, check=False)


def test_the_setting_copies_the_bundle_into_the_app(
    project: XcodeProject, objects: dict[str, Any], tmp_path: Path
) -> None:
    embedded = tmp_path / "SFBench.app/ModelBundle"
    done = run_copy_phase(project, objects, tmp_path, str(REPOSITORY / "tests/bundle/sample"))
    assert done.returncode == 0, done.stderr
    assert (embedded / "manifest.json").is_file()
    assert (embedded / "UNet.mlpackage/Manifest.json").is_file()
    # Without the setting an earlier copy must not stay behind.
    done = run_copy_phase(project, objects, tmp_path, "")
    assert done.returncode == 0
    assert "note: SFBENCH_BUNDLE is not set" in done.stdout
    assert not embedded.exists()
    done = run_copy_phase(project, objects, tmp_path, str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert "error: SFBENCH_BUNDLE=" in done.stdout


def test_the_default_budget_is_the_papers() -> None:
    budget = json.loads((HARNESS / "Budgets/iPhone-14-Pro.json").read_text(encoding="utf-8"))
    assert budget["components_ms"] == {"text_encoder": 4, "unet": 230, "decoder": 116}
    assert budget["end_to_end_ms"] == 2000


def test_sources_hold_no_forced_unwraps_and_no_forced_tries() -> None:
    forced = re.compile(r"\btry!|\bas!|[\w\])]!(?=[\s.,)\]?:\[(]|$)")
    for bad in ("try! x()", "value!.name", "f(a!)", "x as! Int"):
        assert forced.search(bad)
    assert not forced.search("if !a != b")
    for folder in ("Sources", "App", "PerformanceTests", "Tests/SnapFusionKitTests"):
        for source in (HARNESS / folder).rglob("*.swift"):
            for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), start=1):
                code = re.sub(r'"(\\.|[^"\\])*"', '""', line).split("//")[0]
                assert not forced.search(code), f"{source.name}:{number}: {line.strip()}"
