"""The built distributions: whole, small enough for an index, and at work outside the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sfmobile
from sfmobile.bundle.directory import Bundle
from tests.bench.sample import bench
from tests.tiny import REPOSITORY

# The package index refuses larger files.
LIMIT_BYTES = 100_000_000
# For a reader of the repository, not for a user of the package.
LEFT_OUT = (".png", "evaluation.md", "glyph/evaluation/evaluation.json", "glyph/evaluation-64px/evaluation.json")


@dataclass(frozen=True)
class Installed:
    """A wheel unpacked outside the checkout, and a folder elsewhere to run it in."""

    wheel: Path
    root: Path
    elsewhere: Path

    def python(self, *arguments: str, plain: bool = False) -> subprocess.CompletedProcess[str]:
        """Run the interpreter on it; plain: as if only what `pip install sfmobile` brings were installed."""
        paths = [str(self.root)]
        if plain:
            modules, distributions = self.beyond
            hiding = HIDING.format(modules=sorted(modules), distributions=sorted(distributions))
            (self.elsewhere / "sitecustomize.py").write_text(hiding, encoding="utf-8")
            paths.insert(0, str(self.elsewhere))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SFMOBILE_")}
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=self.elsewhere, env=environment, capture_output=True, text=True, check=False)

    @cached_property
    def beyond(self) -> tuple[set[str], set[str]]:
        """Modules and distributions that are installed here and that a plain `pip install sfmobile` doesn't bring."""
        (information,) = self.root.glob("*.dist-info")
        wanted, brought = core_of(metadata.Distribution.at(information)), {"sfmobile"}
        while wanted:
            name = wanted.pop()
            if name not in brought:
                brought.add(name)
                wanted += core_of(metadata.distribution(name))
        owners = {
            module: {canonicalize_name(name) for name in names}
            for module, names in metadata.packages_distributions().items()
        }
        modules = {module for module, names in owners.items() if not names & brought}
        return modules, set().union(*owners.values()) - brought


def core_of(distribution: metadata.Distribution) -> list[str]:
    """The distributions it needs without any extra."""
    lines = [Requirement(line) for line in distribution.requires or []]
    fitting = [line for line in lines if line.marker is None or line.marker.evaluate({"extra": ""})]
    return [str(canonicalize_name(line.name)) for line in fitting]


# A sitecustomize.py, which Python imports at its start.
HIDING = """
import sys
from importlib import metadata

MODULES, DISTRIBUTIONS = {modules!r}, {distributions!r}


class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in MODULES else self.finder.find_spec(name, path, target)


def from_name(name, found=metadata.Distribution.from_name):
    if name.lower().replace("_", "-") in DISTRIBUTIONS:
        raise metadata.PackageNotFoundError(name)
    return found(name)


sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
metadata.Distribution.from_name = staticmethod(from_name)
"""


def build(kind: str, source: Path, target: Path) -> Path:
    """Build a distribution of `source` into the empty folder `target`, without a network."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)],
        cwd=source,
        capture_output=True,
        check=True,
    )
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    # Not pytest's temporary folders, which stay: this takes 90 MB.
    with tempfile.TemporaryDirectory() as folder:
        wheel = build("wheel", REPOSITORY, Path(folder) / "dist")
        root, elsewhere = Path(folder) / "installed", Path(folder) / "elsewhere"
        elsewhere.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(root)
        yield Installed(wheel, root, elsewhere)


def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_the_package_its_data_and_the_models(installed: Installed) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "sfmobile", "models"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    existing = [name for name in tracked if (REPOSITORY / name).is_file()]
    wanted = {
        name.replace("models/", "sfmobile/_models/", 1) if name.startswith("models/") else name for name in existing
    }
    found = {name for name in members(installed.wheel) if not name.startswith("sfmobile-")}
    assert {name for name in wanted - found if not name.endswith(LEFT_OUT)} == set()
    assert found - wanted == set() and not {name for name in found if name.endswith(LEFT_OUT)}
    assert installed.wheel.stat().st_size < LIMIT_BYTES


def test_the_source_distribution_builds_the_same_wheel(installed: Installed, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = build("sdist", REPOSITORY, Path(folder) / "dist")
        assert source.stat().st_size < LIMIT_BYTES
        with tarfile.open(source) as archive:
            archive.extractall(folder, filter="data")
        again = build("wheel", Path(folder) / source.name.removesuffix(".tar.gz"), Path(folder) / "wheels")
        assert members(again) == members(installed.wheel)


def test_what_comes_with_it_is_found_from_elsewhere(installed: Installed) -> None:
    script = """
import json
from pathlib import Path

import sfmobile
from sfmobile.bench.report import SCHEMA_FILES
from sfmobile.bundle.schema import SCHEMA_PATH
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.evaluate.evaluation import DUAL_ENCODER
from sfmobile.evaluate.metrics.dual_encoder import DualEncoder
from sfmobile.models import find_recipe, models_folder
from sfmobile.train.data.tokens import CaptionTokenizer

for schema in (SCHEMA_PATH, *SCHEMA_FILES.values()):
    json.loads(schema.read_text(encoding="utf-8"))
print(json.dumps({
    "package": sfmobile.__file__,
    "models": str(models_folder()),
    "recipes": [find_recipe(Path(name)).is_absolute() for name in ("glyph-64", "glyph-128", "glyph-128-large")],
    "judge": sum(weight.numel() for weight in DualEncoder.load(DUAL_ENCODER).parameters()) > 1_000_000,
    "tokens": CaptionTokenizer().encode_batch(["a red apple"])[0, :5].tolist(),
    "parameters": Checkpoint.open(Path("glyph")).parameters("decoder"),
}))
"""
    done = installed.python("-c", script)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["package"] == str(installed.root / "sfmobile" / "__init__.py")
    assert found["models"] == str(installed.root / "sfmobile" / "_models")
    assert found["recipes"] == [True] * 3 and found["judge"]
    assert found["tokens"] == [49406, 320, 736, 3055, 49407] and found["parameters"] > 100_000


def test_its_commands_take_the_built_in_model_and_its_recipes_by_name(installed: Installed) -> None:
    said = installed.python("-m", "sfmobile", "export", "glyph", "-o", "bundle", "--dry-run", "--json")
    assert said.returncode == 0, said.stderr
    assert str(installed.root / "sfmobile" / "_models" / "glyph") in said.stderr.replace("\n", "")
    assert set(json.loads(said.stdout)["components"]) == {"text_encoder", "unet", "decoder"}
    refused = installed.python("-m", "sfmobile", "train", "stage", "glyph-128", "nowhere", "--run", "run")
    assert refused.returncode == 2 and "'glyph-128' has no stage 'nowhere'; it has" in refused.stderr


# --- without the extras ---


def test_a_plain_installation_inspects_compares_and_diagnoses(installed: Installed, tiny_bundle: Bundle) -> None:
    modules, _ = installed.beyond
    assert {"torch", "onnx", "numba", "PIL", "matplotlib"} <= modules and "coremltools" not in modules
    report = installed.elsewhere / "bench.json"
    report.write_text(bench().model_dump_json(), encoding="utf-8")
    bundle = str(tiny_bundle.root)
    for arguments in (
        ["--version"],
        ["inspect", bundle],
        ["inspect", bundle, "--device", "iphone-14-pro"],
        ["inspect", bundle, "--sarif", "findings.sarif"],
        ["inspect", str(tiny_bundle.root / "UNet.mlpackage"), "--json"],
        ["compare", "bench.json", "bench.json"],
        ["report", "import", "bench.json", "-o", "imported.json"],
        ["doctor"],
    ):
        done = installed.python("-m", "sfmobile", *arguments, plain=True)
        assert done.returncode == 0, (arguments, done.stderr)
    assert (installed.elsewhere / "findings.sarif").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "glyph", "-o", "out"],
        ["verify", "BUNDLE"],
        ["generate", "BUNDLE", "a cat", "-o", "a.png"],
        ["bench", "BUNDLE"],
        ["evaluate", "glyph", "-o", "out"],
        ["train", "all", "glyph-128", "--run", "run"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_computes_says_in_one_sentence_what_to_install(
    arguments: list[str], installed: Installed, tiny_bundle: Bundle
) -> None:
    given = [str(tiny_bundle.root) if argument == "BUNDLE" else argument for argument in arguments]
    done = installed.python("-m", "sfmobile", *given, plain=True)
    assert done.returncode == 3 and done.stdout == ""
    sentence = r"error: This needs \w+, which isn't installed; run pip install 'sfmobile\[torch\]'\.\n"
    assert re.fullmatch(sentence, done.stderr), done.stderr


def test_its_version_is_the_packages(installed: Installed) -> None:
    assert metadata.Distribution.at(next(installed.root.glob("*.dist-info"))).version == sfmobile.__version__
