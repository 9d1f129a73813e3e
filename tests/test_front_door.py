"""What a notebook finds behind `import sfmobile`: light to import, documented, typed, and the README's lines work."""

from __future__ import annotations

import inspect
import pickle
import pydoc
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sfmobile
from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import UsageError
from sfmobile.observer import Observer, Unit
from sfmobile.sampling.picture import Picture
from tests.bench.sample import bench, close_by, verify
from tests.test_structure import HEAVY
from tests.tiny import REPOSITORY

ROOMS = ("bench", "compress", "export", "inspect", "verify")
FUNCTIONS = (*ROOMS, "compare", "open_checkpoint", "search_recipe")


class Log(Observer):
    """What was done, and how much of it."""

    def __init__(self) -> None:
        self.totals: dict[str, int | None] = {}
        self.done: dict[str, int] = {}
        self.notes: list[str] = []

    def start(self, what: str, total: int | None = None, unit: Unit = "pieces") -> None:
        self.totals[what], self.done[what] = total, 0

    def advance(self, units: int = 1) -> None:
        self.done[list(self.done)[-1]] += units

    def note(self, message: str) -> None:
        self.notes.append(message)


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_it_imports_nothing_heavy() -> None:
    assert run(f"import sys, sfmobile; print(sorted({set(HEAVY)!r} & set(sys.modules)))") == "[]"


def test_importing_it_takes_less_than_50_ms() -> None:
    script = "import time; start = time.perf_counter(); import sfmobile; print(time.perf_counter() - start)"
    assert min(float(run(script)) for _ in range(3)) < 0.05


def test_all_that_is_offered_is_there_and_listed() -> None:
    assert set(sfmobile.__all__) <= set(dir(sfmobile))
    for name in sfmobile.__all__:
        assert getattr(sfmobile, name) is not None
    assert set(sfmobile.OFFERED) | {"errors"} == set(sfmobile.__all__)
    with pytest.raises(AttributeError, match="no attribute 'paint'"):
        sfmobile.paint  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_documented_typed_and_take_options_by_keyword(name: str) -> None:
    function: Any = getattr(sfmobile, name)
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    described = inspect.getdoc(function) or ""
    assert "Raises `" in described
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name != "observer":
            assert re.search(rf"\b{parameter.name}\b", described), f"{parameter.name} isn't explained"


@pytest.mark.parametrize("name", ROOMS)
def test_help_of_a_room_shows_its_function(name: str) -> None:
    text = pydoc.render_doc(getattr(sfmobile, name), renderer=pydoc.plaintext)
    assert f"{name}(" in text and "observer" in text and "Raises `" in text


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_is_the_same_however_it_is_imported(name: str) -> None:
    order = (
        f"import sfmobile; first = sfmobile.{name}",
        f"import sfmobile.{name} as first",
        f"from sfmobile import {name} as first",
    )
    for line in order:
        script = f"{line}\nimport sfmobile\nassert first is sfmobile.{name} and callable(first)\nprint(first.__name__)"
        assert run(script) == f"sfmobile.{name}"


def test_a_room_stays_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import sfmobile.export.options as options
    from sfmobile.export.options import ExportOptions

    assert sfmobile.export.options is options and options.ExportOptions is ExportOptions  # type: ignore[attr-defined]
    monkeypatch.setattr("sfmobile.export.options.MOST_CHUNKS", 2)
    with pytest.raises(UsageError, match="expected 1 to 2"):
        ExportOptions(chunks=3)
    assert pickle.loads(pickle.dumps(ExportOptions(bits=4))) == ExportOptions(bits=4)
    assert pickle.loads(pickle.dumps(sfmobile.export)) is sfmobile.export
    with pytest.raises(AttributeError, match=r"module 'sfmobile\.export' has no attribute 'imported'"):
        sfmobile.export.imported  # type: ignore[attr-defined]  # noqa: B018


def test_the_readmes_lines_run(tiny_checkpoint: Checkpoint, tmp_path: Path, monkeypatch, capsys) -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = text.split("\n## From Python\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "checkpoint").symlink_to(tiny_checkpoint.root)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    out, _ = capsys.readouterr()
    assert "against torch fp32" in out and "unet" in out
    assert isinstance(names["bundle"], Bundle) and (tmp_path / "out" / "bundle" / "manifest.json").is_file()
    assert isinstance(names["picture"], Picture) and names["picture"]._repr_png_()[:4] == b"\x89PNG"


def test_export_takes_an_opened_checkpoint_and_says_what_it_made(
    tiny_checkpoint: Checkpoint, tmp_path: Path, capsys
) -> None:
    log = Log()
    options: dict[str, Any] = {"bits": "none", "component": "decoder", "golden": False}
    bundle = sfmobile.export(tiny_checkpoint, tmp_path / "bundle", **options, observer=log)
    assert list(bundle.manifest.components) == ["decoder"] == list(bundle.made)
    assert bundle.manifest.components["decoder"].compression is None and not bundle.made["decoder"].reused
    assert log.totals["decoder: hashing the source"] == log.done["decoder: hashing the source"] > 0
    assert any(note.startswith("decoder: ") and "built in" in note for note in log.notes)
    assert "decoder" in str(bundle) and "float16" in str(bundle)
    again = sfmobile.export(str(tiny_checkpoint.root), str(tmp_path / "bundle"), **options)
    assert again.made["decoder"].reused and again.manifest == bundle.manifest
    # Nothing is printed or drawn unasked.
    assert capsys.readouterr() == ("", "")


def test_latent_sizes_are_one_or_several(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    options: dict[str, Any] = {"bits": "none", "component": ["decoder"], "golden": False, "target": "ios18"}
    one = sfmobile.export(tiny_checkpoint, tmp_path / "one", latent_size=(8, 16), **options)
    assert (one.manifest.latents.height, one.manifest.latents.width) == (8, 16)
    with pytest.raises(UsageError, match="need packages of several functions"):
        sfmobile.export(tiny_checkpoint, tmp_path / "two", latent_size=[(8, 8), (8, 16)], **options)


def test_verify_takes_what_is_open_and_prints_its_verdict_first(
    tiny_bundle: Bundle, tiny_checkpoint: Checkpoint, capsys
) -> None:
    log = Log()
    found = sfmobile.verify(tiny_bundle, source=tiny_checkpoint, prompt="a", steps=1, precision="fp32", observer=log)
    assert found.passed and [one.runtime.precision for one in found.evaluations] == ["fp32"]
    assert str(found).startswith("Passed: every component reaches its gate.\n\n")
    assert "worst PSNR" in str(found)
    assert log.totals["Reference (torch fp32)"] == log.done["Reference (torch fp32)"] == 2
    failed = sfmobile.verify(tiny_bundle, source=tiny_checkpoint, prompt="a", steps=1, precision="fp16", gate=300)
    assert not failed.passed and str(failed).startswith("FAILED: text_encoder ")
    assert capsys.readouterr() == ("", "")


def test_a_pipeline_draws_pictures_that_a_notebook_shows(tiny_bundle: Bundle, capsys) -> None:
    log = Log()
    with sfmobile.Pipeline(tiny_bundle.root, observer=log) as pipeline:
        one, same = (pipeline("a red apple", seed=3, steps=2) for _ in range(2))
        other = pipeline("a red apple", seed=4, steps=2, observer=log)
    assert one._repr_png_() == same._repr_png_() != other._repr_png_()
    assert one.settings["seed"] == 3 and one.settings["steps"] == 2
    checked = f"Checking {tiny_bundle.root.name}"
    assert log.totals[checked] == log.done[checked] and log.done["a red apple"] == 2
    assert capsys.readouterr() == ("", "")


def test_bench_measures_what_a_pipeline_would_run(tiny_bundle: Bundle) -> None:
    report = sfmobile.bench(tiny_bundle, predictions=2, loop=False)
    assert report.runtime.kind == "mil" and report.components["unet"].predictions == 2 and report.loop is None
    assert "on mil fp32" in str(report) and "cold load" in str(report)
    with pytest.raises(UsageError, match="0 predictions"):
        sfmobile.bench(tiny_bundle, predictions=0)


def test_inspect_finds_in_python_what_the_command_prints(tiny_bundle: Bundle) -> None:
    found = sfmobile.inspect(tiny_bundle, component="unet", device="iphone-14-pro")
    assert list(found.packages) == ["unet"] == list(found.blocks) and found.time is not None
    assert "unet: blocks" in str(found) and "Time on iPhone 14 Pro" in str(found)
    assert found.record()["unet"]["blocks"][0]["block"] == found.blocks["unet"][0].block
    with pytest.raises(UsageError, match="need --device"):
        sfmobile.inspect(tiny_bundle, compute_plan="plan.json")


def test_compare_takes_records_as_well_as_files() -> None:
    same = sfmobile.compare(bench(10.0), bench(10.0))
    assert same.passed and str(same).startswith("Passed")
    slower = sfmobile.compare(bench(10.0), bench(20.0))
    assert "unet median_ms" in slower.regressed and str(slower).startswith("FAILED: worse in unet median_ms")
    assert not sfmobile.compare(verify(), verify(close_by(None, nonfinite=1))).passed
    with pytest.raises(UsageError, match="compare two of one kind"):
        sfmobile.compare(bench(), verify())


def test_a_searched_recipe_stores_a_bundle_anew(
    tiny_bundle: Bundle, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    found = sfmobile.search_recipe(tiny_checkpoint, same_size_as=4, prompt="a", steps=1, probes=1)
    assert "4 bits" in str(found) and set(found.recipe.components) == {"unet"}
    bundle = sfmobile.compress(
        tiny_bundle, tmp_path / "small", recipe=found.recipe, source=tiny_checkpoint, golden=False
    )
    record, before = bundle.manifest.components["unet"], tiny_bundle.manifest.components["unet"]
    assert record.compression is not None and record.compression.recipe_sha256 is not None
    assert record.bytes < before.bytes and record.attention == before.attention


def test_a_model_is_any_package(tiny_bundle: Bundle) -> None:
    model = sfmobile.Model(tiny_bundle.package("decoder"))
    (name,) = model.inputs
    latents = np.random.default_rng(0).standard_normal(model.inputs[name].shape)
    outputs = model.predict({name: latents})
    assert set(outputs) == set(model.outputs) and outputs["image"].shape == model.outputs["image"].shape
    assert outputs["image"].dtype == np.float16 and np.isfinite(outputs["image"]).all()
    with sfmobile.Pipeline(tiny_bundle, runtime="mil") as pipeline:
        expected = pipeline.component("decoder").predict({"latents": latents})["image"]
    assert np.array_equal(outputs["image"], expected.astype(np.float16))


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({}, r"Decoder\.mlpackage lacks its input 'latents' of type fp16"),
        ({"latents": np.zeros((1, 4, 8, 8)), "extra": np.zeros(1)}, "has no input 'extra'; it takes latents"),
        ({"latents": np.zeros((1, 4, 8, 9))}, r"has shape \(1, 4, 8, 9\); expected fp16\[1, 4, 8, 8\]"),
        ({"latents": np.full((1, 4, 8, 8), "a")}, "has dtype <U1; expected numbers for fp16"),
    ],
)
def test_a_model_refuses_what_it_does_not_take(inputs: Any, sentence: str, tiny_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=sentence):
        sfmobile.Model(tiny_bundle.package("decoder")).predict(inputs)


def test_a_model_takes_whole_numbers_where_those_are_declared(tiny_bundle: Bundle) -> None:
    model = sfmobile.Model(str(tiny_bundle.package("text_encoder")))
    (shape,) = (type_.shape for type_ in model.inputs.values())
    with pytest.raises(UsageError, match="has dtype float64; expected numbers for int32"):
        model.predict({"input_ids": np.full(shape, 1.5)})
    assert "input_ids int32[1, 77] ->" in repr(model)
    assert list(model.predict({"input_ids": np.ones(shape, np.int64)})) == ["encoder_hidden_states"]
