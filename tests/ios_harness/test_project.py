"""The Xcode project, its schemes and test plans: written by hand, and there is no Xcode here to open them."""

from __future__ import annotations

import hashlib
import json
import os
import plistlib
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
TESTS = {"SFBenchUnitTests", "SFBenchPerformanceTests"}
TARGETS = {"SFBench", "SnapFusionExample", *TESTS}
SOURCES = {
    "SFBench": HARNESS / "App",
    "SnapFusionExample": HARNESS / "Example",
    "SFBenchUnitTests": HARNESS / "Tests/SnapFusionKitTests",
    "SFBenchPerformanceTests": HARNESS / "PerformanceTests",
}
RESOURCES = {
    "SFBench": set(),
    "SnapFusionExample": set(),
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
    package = (REPOSITORY / "Package.swift").read_text(encoding="utf-8")
    products = set(re.findall(r'\.library\(name: "(\w+)"', package))
    references = [item for item in objects.values() if item.isa == "XCLocalSwiftPackageReference"]
    assert [reference.relativePath for reference in references] == [".."]
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
    for name in TESTS:
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
        # Only where CI says so: no Apple compiler has seen this code.
        assert settings["SWIFT_TREAT_WARNINGS_AS_ERRORS"] is None
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


def test_warnings_are_errors_only_where_ci_asks_for_it() -> None:
    assert xcconfig()["SWIFT_TREAT_WARNINGS_AS_ERRORS"] == "NO"
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert "$(if $(CI),SWIFT_TREAT_WARNINGS_AS_ERRORS=YES)" in makefile
    assert "STRICT_SWIFT := $(if $(CI),-Xswiftc -warnings-as-errors)" in makefile


def test_the_performance_plan_never_retries_and_keeps_what_is_attached() -> None:
    plan = json.loads((HARNESS / "Performance.xctestplan").read_text(encoding="utf-8"))
    for options in [plan["defaultOptions"], *(item["options"] for item in plan["configurations"])]:
        assert "testRepetitionMode" not in options
        assert "maximumTestRepetitions" not in options
    assert plan["defaultOptions"]["userAttachmentLifetime"] == "keepAlways"
    assert plan["defaultOptions"]["testTimeoutsEnabled"] is True
    allowed = plan["defaultOptions"]["defaultTestExecutionTimeAllowance"]
    assert 600 <= allowed <= plan["defaultOptions"]["maximumTestExecutionTimeAllowance"]


def xcconfig() -> dict[str, str]:
    """The settings of the shared configuration file; a comment is no setting."""
    lines = (HARNESS / "Config/SFBench.xcconfig").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("=", 1) for line in lines if "=" in line and not line.startswith("//")]
    return {name.strip(): value.strip() for name, value in pairs}


def test_every_identifier_is_the_teams_own(project: XcodeProject) -> None:
    assert xcconfig()["SAMPLE_CODE_DISAMBIGUATOR"] == "${DEVELOPMENT_TEAM}"
    for target in TARGETS:
        for configuration in project.objects.get_configurations_on_targets(target_name=target):
            identifier = configuration.buildSettings["PRODUCT_BUNDLE_IDENTIFIER"]
            assert identifier == f"dev.sfmobile.{target}${{SAMPLE_CODE_DISAMBIGUATOR}}"


def test_more_memory_is_an_entitlement_that_is_off_by_default(project: XcodeProject) -> None:
    assert xcconfig()["SFBENCH_ENTITLEMENTS"] == ""
    offered = re.search(r"^// SFBENCH_ENTITLEMENTS = (\S+)$", (HARNESS / "Config/SFBench.xcconfig").read_text(), re.M)
    assert offered is not None
    entitlements = plistlib.loads((HARNESS / offered[1]).read_bytes())
    assert entitlements == {"com.apple.developer.kernel.increased-memory-limit": True}
    for configuration in project.objects.get_configurations_on_targets(target_name="SFBench"):
        settings = configuration.buildSettings
        assert settings["CODE_SIGN_ENTITLEMENTS"] == "$(SFBENCH_ENTITLEMENTS)"
        # The report says whether it was there: the app reads the file's name from its Info.plist.
        information = plistlib.loads((HARNESS / settings["INFOPLIST_FILE"]).read_bytes())
        assert information == {"SFBenchEntitlements": "$(SFBENCH_ENTITLEMENTS)"}
    device = (HARNESS / "Sources/SnapFusionCoreML/Device.swift").read_text(encoding="utf-8")
    assert '"SFBenchEntitlements"' in device
    assert Path(offered[1]).stem in device


def test_saving_a_picture_says_what_for(project: XcodeProject) -> None:
    for configuration in project.objects.get_configurations_on_targets(target_name="SFBench"):
        assert configuration.buildSettings["INFOPLIST_KEY_NSPhotoLibraryAddUsageDescription"]


def test_a_device_stays_awake_while_it_is_measured() -> None:
    source = (HARNESS / "PerformanceTests/PerformanceTests.swift").read_text(encoding="utf-8")
    assert "isIdleTimerDisabled = true" in source


COMPILER = """#!/bin/sh
# coremlcompiler compile PACKAGE FOLDER --platform ios --deployment-target N
[ "$1 $2 $5 $6 $7 $8" = "coremlcompiler compile --platform ios --deployment-target 17.0" ] || exit 64
if [ -n "${BROKEN_COMPILER:-}" ]; then exit 65; fi
name=$(basename "$3" .mlpackage)
mkdir -p "$4/$name.mlmodelc/weights"
cp "$3/Manifest.json" "$4/$name.mlmodelc/model.mil"
echo "$3" >> "$COMPILED_LOG"
"""


def copy_phase(objects: dict[str, Any]) -> Any:
    return next(item for item in objects.values() if item.isa == "PBXShellScriptBuildPhase")


def run_copy_phase(objects: dict[str, Any], build: Path, bundle: str, **settings: str) -> Any:
    """Run the app's copy phase as Xcode would, with stand-ins for the tools that only macOS has."""
    tools = build / "bin"
    tools.mkdir(parents=True, exist_ok=True)
    for name, text in {
        "ditto": '#!/bin/sh\nmkdir -p "$2"\nexec cp -R "$1/." "$2"\n',
        "shasum": '#!/bin/sh\nshift 2\nexec sha256sum "$@"\n',
        "xcrun": COMPILER,
    }.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    script = copy_phase(objects).shellScript.replace("\\n", "\n").replace('\\"', '"')
    environment = {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "SRCROOT": str(HARNESS),
        "TARGET_BUILD_DIR": str(build),
        "UNLOCALIZED_RESOURCES_FOLDER_PATH": "SFBench.app",
        "DERIVED_FILE_DIR": str(build / "derived"),
        "IPHONEOS_DEPLOYMENT_TARGET": "17.0",
        "COMPILED_LOG": str(build / "compiled.log"),
        "SFBENCH_BUNDLE": bundle,
        **settings,
    }
    (build / "SFBench.app").mkdir(exist_ok=True)
    (build / "derived").mkdir(exist_ok=True)
    return subprocess.run(["/bin/sh", "-c", script], env=environment, capture_output=True, text=True, check=False)


def test_the_copy_phase_declares_what_it_writes(objects: dict[str, Any]) -> None:
    """Undeclared, a bundle that changes without the code leaves the app with the old one's signature."""
    phase = copy_phase(objects)
    assert list(phase.outputPaths) == ["$(TARGET_BUILD_DIR)/$(UNLOCALIZED_RESOURCES_FOLDER_PATH)/ModelBundle"]
    assert list(phase.inputPaths) == ["$(SRCROOT)/Config/copy-bundle.sh"]


def test_the_setting_copies_the_bundle_into_the_app(objects: dict[str, Any], tmp_path: Path) -> None:
    embedded = tmp_path / "SFBench.app/ModelBundle"
    done = run_copy_phase(objects, tmp_path, str(REPOSITORY / "tests/bundle/sample"), SFBENCH_COMPILE="NO")
    assert done.returncode == 0, done.stderr
    assert (embedded / "manifest.json").is_file()
    assert (embedded / "UNet.mlpackage/Manifest.json").is_file()
    # Without the setting an earlier copy must not stay behind.
    done = run_copy_phase(objects, tmp_path, "")
    assert done.returncode == 0
    assert "note: SFBENCH_BUNDLE is not set" in done.stdout
    assert not embedded.exists()
    done = run_copy_phase(objects, tmp_path, str(tmp_path / "nothing"))
    assert done.returncode == 1
    assert "error: SFBENCH_BUNDLE=" in done.stdout


def test_packages_are_compiled_once_and_no_weight_is_stored_twice(objects: dict[str, Any], tmp_path: Path) -> None:
    sample = REPOSITORY / "tests/bundle/sample"
    embedded = tmp_path / "SFBench.app/ModelBundle"
    for _ in range(2):
        done = run_copy_phase(objects, tmp_path, str(sample))
        assert done.returncode == 0, done.stderr
        assert not list(embedded.rglob("*.mlpackage"))
        assert (embedded / "UNet.mlmodelc/model.mil").is_file()
        first, *listed = (embedded / "compiled.sha256").read_text().splitlines()
        assert first == f"# manifest {hashlib.sha256((sample / 'manifest.json').read_bytes()).hexdigest()}"
        for line in listed:
            digest, path = line.split("  ")
            assert hashlib.sha256((embedded / path).read_bytes()).hexdigest() == digest
        assert {line.split("/")[0].split()[1] for line in listed} == {
            f"{name}.mlmodelc" for name in ("Decoder", "TextEncoder", "UNet")
        }
    packages = list(sample.glob("*.mlpackage"))
    assert len((tmp_path / "compiled.log").read_text().splitlines()) == len(packages)


def test_a_package_that_does_not_compile_fails_the_build(objects: dict[str, Any], tmp_path: Path) -> None:
    sample = str(REPOSITORY / "tests/bundle/sample")
    assert run_copy_phase(objects, tmp_path, sample, BROKEN_COMPILER="1").returncode != 0
    # What was left half-done isn't taken for whole.
    assert run_copy_phase(objects, tmp_path, sample).returncode == 0
    assert (tmp_path / "SFBench.app/ModelBundle/UNet.mlmodelc/model.mil").is_file()


def test_the_default_budget_is_the_papers() -> None:
    budget = json.loads((HARNESS / "Budgets/iPhone-14-Pro.json").read_text(encoding="utf-8"))
    assert budget["components_ms"] == {"text_encoder": 4, "decoder": 116}
    # A step, whether the bundle makes one call of batch 2 of it or two of batch 1.
    assert budget["step_ms"] == 230
    assert budget["end_to_end_ms"] == 2000


def test_sources_hold_no_forced_unwraps_and_no_forced_tries() -> None:
    forced = re.compile(r"\btry!|\bas!|[\w\])]!(?=[\s.,)\]?:\[(]|$)")
    for bad in ("try! x()", "value!.name", "f(a!)", "x as! Int"):
        assert forced.search(bad)
    assert not forced.search("if !a != b")
    for folder in ("Sources", "App", "Example", "PerformanceTests", "Tests/SnapFusionKitTests"):
        for source in (HARNESS / folder).rglob("*.swift"):
            for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), start=1):
                code = re.sub(r'"(\\.|[^"\\])*"', '""', line).split("//")[0]
                assert not forced.search(code), f"{source.name}:{number}: {line.strip()}"


def test_the_libraries_names_are_not_everybodys() -> None:
    """An app that imports them has a Request and an Event of its own."""
    common = {"Request", "Event", "Step", "Picture", "Tensor", "Budget", "Manifest", "Tokenizer", "JSONValue", "Image"}
    common |= {"Guidance", "Prediction", "Placement", "Half", "Device", "Engine", "Model", "Bundle", "Progress"}
    declared: set[str] = set()
    for source in (HARNESS / "Sources").glob("SnapFusion*/*.swift"):
        text = source.read_text(encoding="utf-8")
        # A whole file may stand inside an #if, one level deeper.
        indent = " {4}" if text.startswith("#if") else ""
        kinds = "struct|class|enum|actor|protocol|typealias"
        declared |= set(re.findall(rf"^{indent}public (?:final )?(?:{kinds}) (\w+)", text, re.M))
    assert len(declared) > 40
    assert declared & common == set()


def test_the_package_that_apps_depend_on_is_free_of_unsafe_flags_and_of_other_packages() -> None:
    package = (REPOSITORY / "Package.swift").read_text(encoding="utf-8")
    assert "unsafeFlags" not in package
    assert ".package(" not in package
    tools = (HARNESS / "Package.swift").read_text(encoding="utf-8")
    assert "unsafeFlags" not in tools
    # No target is declared in both, so that nothing can drift.
    named = re.compile(r'\.(?:target|executableTarget|testTarget)\(\s*name: "(\w+)"')
    assert set(named.findall(package)) & set(named.findall(tools)) == set()
    assert set(named.findall(tools)) == {"sfbench"}


@pytest.mark.parametrize("module", ["SnapFusionKit", "SnapFusionCoreML"])
def test_the_documentation_links_to_what_there_is(module: str) -> None:
    catalog = HARNESS / f"Sources/{module}/{module}.docc"
    assert (catalog / f"{module}.md").read_text(encoding="utf-8").startswith(f"# ``{module}``\n")
    code = "\n".join(file.read_text(encoding="utf-8") for file in (HARNESS / "Sources").glob("SnapFusion*/*.swift"))
    articles = {file.stem for file in catalog.glob("*.md")}
    links = 0
    for file in catalog.glob("*.md"):
        text = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert set(re.findall(r"<doc:(\w+)>", text)) <= articles, file.name
        for symbol in re.findall(r"``([^`]+)``", text):
            *types, name = re.sub(r"\(.*", "", symbol).split("/")
            for one in types:
                assert re.search(rf"\b(?:struct|class|actor|enum|protocol) {one}\b", code), symbol
            found = re.search(rf"\b(?:struct|class|actor|enum|protocol|func) {name}\b", code)
            assert found or name == module, f"{file.name}: {symbol}"
            links += 1
    assert links >= 4


def test_the_list_for_device_day_names_what_there_is() -> None:
    text = (HARNESS / "DEVICE_DAY.md").read_text(encoding="utf-8")
    report = (REPOSITORY / "sfmobile/bench/report.py").read_text(encoding="utf-8")
    for field in ("neural_engine_cost", "cpu_only_median_ms", "first_load_ms", "backed_outputs", "neural_peak_bytes"):
        assert field in text
        assert field in report
    sources = "".join(
        file.read_text(encoding="utf-8") for file in HARNESS.rglob("*.swift") if ".build" not in file.parts
    )
    for setting in re.findall(r"TEST_RUNNER_(\w+)", text):
        assert f'"{setting}"' in sources
    for path in re.findall(r"`((?:ios_harness|tests)/[\w./]+)`", text):
        assert (REPOSITORY / path).exists(), path
