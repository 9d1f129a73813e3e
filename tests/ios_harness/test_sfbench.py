"""sfbench beside sfmobile: one bundle, one worker, the same tokens, noise, latents and picture."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sfmobile
from sfmobile.bench.report import BenchReport, read_report
from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.export.exporter import export_bundle
from sfmobile.export.options import ExportOptions
from sfmobile.runtime.opening import open_runtime
from sfmobile.sampling.choices import Fit
from sfmobile.sampling.control import Control, read_control
from sfmobile.sampling.given import Given, read_given
from sfmobile.sampling.golden import golden_run
from sfmobile.sampling.noise import Noise
from sfmobile.sampling.picture import read_settings
from sfmobile.sampling.pipeline import Request, TextToImage
from sfmobile.sampling.tasks import task_of
from tests.bundle.mutate import mutate
from tests.bundle.sample import BROKEN, SAMPLE
from tests.checkpoint.families import NETWORKS_ONLY, blocks, write_family
from tests.exported import SharedExports

REPOSITORY = Path(__file__).resolve().parents[2]
SFBENCH = REPOSITORY / "ios_harness/.build/debug/sfbench"
TOLERANCE = 1e-4


def sfbench(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(REPOSITORY / ".ci/swift-toolchain"), "exec", str(SFBENCH), *(str(one) for one in arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300)


def with_worker(*arguments: object) -> subprocess.CompletedProcess[str]:
    return sfbench(*arguments, "--runtime", "mil", "--python", sys.executable)


@pytest.fixture(scope="module")
def bundle(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    root = tmp_path_factory.mktemp("bundles") / "two"
    return export_bundle(
        tiny_checkpoint, root, ExportOptions(), golden=lambda opened: golden_run(opened, tiny_checkpoint)
    )


@pytest.fixture(scope="module")
def bundle_of_one(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    root = tmp_path_factory.mktemp("bundles") / "one"
    return export_bundle(tiny_checkpoint, root, ExportOptions(guidance_batch=1))


def assert_same_run(
    bundle: Bundle, request: Request, folder: Path, *options: object
) -> subprocess.CompletedProcess[str]:
    """Run sfbench and Python's pipeline on the mil runtime; compare everything there is."""
    done = with_worker(
        *("generate", bundle.root, request.prompt, "--seed", request.seed, "-o", folder / "swift.png"),
        *("--vectors", folder / "vectors", "--json", *options),
    )
    assert done.returncode == 0, done.stderr
    latents = np.load(folder / "vectors/latents.npy")
    with TextToImage.of_bundle(bundle, open_runtime("mil", bundle)) as pipeline:
        prompt = pipeline.cut(request.prompt, request.syntax)
        ids = np.concatenate([chunk.ids for chunk in prompt.chunks])
        np.testing.assert_array_equal(np.load(folder / "vectors/tokens.npy"), ids)
        noise = Noise(request.seed)
        unit = task_of(bundle.manifest, request.given).draw(noise, pipeline.latent_shape())
        np.testing.assert_array_equal(latents[:1], unit)
        steps = list(pipeline.steps(request))
        assert len(latents) == len(steps) + 1
        differences = [
            float(np.abs(step.latents - found).max()) for step, found in zip(steps, latents[1:], strict=True)
        ]
        picture = pipeline.generate(request)
    print(f"largest difference of the latents at each step: {differences}")
    assert max(differences) <= TOLERANCE
    with Image.open(folder / "swift.png") as image:
        levels = np.abs(np.asarray(image).astype(int) - picture.pixels)
    # Latents that part in their last bits may leave a value on the other side of a rounding: rarely, and by one level.
    assert levels.max() <= (max(differences) > 0) and np.mean(levels > 0) <= 1e-3
    assert read_settings(folder / "swift.png") == picture.settings
    report = json.loads(done.stdout)
    assert report["pictures"][0]["settings"] == picture.settings
    return done


def test_the_same_picture_with_guidance_in_one_call(bundle: Bundle, tmp_path: Path) -> None:
    request = Request("a red apple, 2 cafés", "blurry", seed=7, steps=8, guidance_scale=7.5)
    assert_same_run(bundle, request, tmp_path, "--negative", "blurry", "--steps", 8, "--guidance", 7.5)


def test_the_same_picture_with_a_unet_of_batch_one(bundle_of_one: Bundle, tmp_path: Path) -> None:
    request = Request("three blue birds on a wire, " * 30, seed=2**32 + 5, steps=3, guidance_scale=3.0)
    assert_same_run(bundle_of_one, request, tmp_path, "--steps", 3, "--guidance", 3, "--low-memory")
    assert read_settings(tmp_path / "swift.png")["prompt_tokens_dropped"] > 100


def test_the_same_picture_without_guidance(bundle: Bundle, tmp_path: Path) -> None:
    request = Request("👩‍🚀 in 太空", seed=0, steps=2, guidance_scale=1.0)
    assert_same_run(bundle, request, tmp_path, "--steps", 2, "--guidance", 1, "--preview")
    previews = sorted(path.name for path in tmp_path.glob("*.png"))
    assert previews == ["swift-step-01.png", "swift-step-02.png", "swift.png"]


def test_the_same_picture_with_a_unet_in_chunks(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    bundle = export_bundle(tiny_checkpoint, tmp_path / "chunked", ExportOptions(chunks=2))
    assert len(bundle.manifest.components["unet"].chunks) == 2
    request = Request("a red apple", seed=3, steps=2, guidance_scale=3.0)
    assert_same_run(bundle, request, tmp_path, "--steps", 2, "--guidance", 3)


def test_the_same_picture_of_a_long_prompt_with_weights(tiny_exports: SharedExports, tmp_path: Path) -> None:
    bundle = tiny_exports(ExportOptions(prompt_chunks=2))
    prompt = "a (red:1.3) apple, " + "on a [wooden] table, " * 5
    request = Request(prompt, "((blurry))", seed=7, steps=2, guidance_scale=5.0, syntax="a1111")
    options = ("--negative", "((blurry))", "--steps", 2, "--guidance", 5, "--prompt-syntax", "a1111")
    assert_same_run(bundle, request, tmp_path, *options)
    assert len(np.load(tmp_path / "vectors/tokens.npy")) == 2


def test_the_same_picture_under_control(tiny_controlled_bundle: Bundle, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).uniform(0, 1, (1, 3, 16, 16)).astype(np.float32)
    np.save(tmp_path / "edges.npy", picture)
    control = Control("edges", picture, 0.8, 0.0, 0.5)
    request = Request("a red apple", "blurry", seed=7, steps=4, guidance_scale=5.0, controls=(control,))
    options = ("--negative", "blurry", "--steps", 4, "--guidance", 5, "--control-end", 0.5)
    assert_same_run(tiny_controlled_bundle, request, tmp_path, *options, "--control", f"edges={tmp_path}/edges.npy:0.8")


def test_the_same_picture_under_a_control_picture_of_any_kind_and_size(
    tiny_controlled_bundle: Bundle, tmp_path: Path
) -> None:
    """A palette of 4 colours, 2 bits a pixel, and of another size: read and scaled to Python's very values."""
    generator = np.random.default_rng(1)
    drawn = Image.fromarray(generator.integers(0, 4, (30, 20), np.uint8), mode="P")
    drawn.putpalette([0, 0, 0, 255, 0, 0, 0, 200, 100, 250, 250, 255])
    drawn.save(tmp_path / "edges.png", bits=2)
    control, _ = read_control("edges", tmp_path / "edges.png", (16, 16), 0.7)
    request = Request("a red apple", seed=7, steps=1, guidance_scale=1.0, controls=(control,))
    options = ("--steps", 1, "--guidance", 1, "--control", f"edges={tmp_path}/edges.png:0.7")
    assert_same_run(tiny_controlled_bundle, request, tmp_path, *options)


def test_the_same_verdict_of_the_safety_checker(tiny_safe_bundle: Bundle, tmp_path: Path) -> None:
    request = Request("a red apple", seed=3, steps=1, guidance_scale=1.0)
    done = assert_same_run(tiny_safe_bundle, request, tmp_path, "--steps", 1, "--guidance", 1)
    with sfmobile.Pipeline(tiny_safe_bundle, runtime="mil") as pipeline:
        verdict = pipeline.draw(request).safety
    assert verdict is not None
    found = json.loads(done.stdout)["pictures"][0]["safety"]
    assert found.keys() == verdict.record().keys() and found["flagged"] == verdict.flagged
    for key, scores in verdict.record().items():
        assert key == "flagged" or np.allclose(found[key], scores, atol=1.01e-3)
    unchecked = replace(request, safety_checker=False)
    assert_same_run(tiny_safe_bundle, unchecked, tmp_path, "--steps", 1, "--guidance", 1, "--no-safety-checker")


def test_the_worker_matches_the_golden_vectors(bundle: Bundle) -> None:
    done = with_worker("verify", bundle.root, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["tokens_identical"] is True
    assert result["noise_identical"] is True
    assert min(result["components_psnr_db"].values()) > 90
    assert len(result["latents_max_difference"]) == bundle.manifest.pipeline.default_steps
    assert max(result["latents_max_difference"]) < 1e-2


def test_a_bench_report_is_one_that_python_reads(bundle: Bundle, tmp_path: Path) -> None:
    done = with_worker("bench", bundle.root, "-n", 2, "--steps", 2, "-o", tmp_path / "bench.json", "--json")
    assert done.returncode == 0, done.stderr
    report = read_report(tmp_path / "bench.json", BenchReport)
    assert report == BenchReport.model_validate_json(done.stdout)
    assert report.producer.name == "ios_harness"
    assert report.runtime.kind == "mil"
    assert set(report.components) == {"text_encoder", "unet", "decoder"}
    assert report.components["unet"].predictions == 2
    assert report.loop is not None
    assert len(report.loop.steps_ms) == report.loop.steps == 2
    expected = json.loads((tmp_path / "bench.json").read_text())
    # Every field is written, also those without a value, as Python does.
    assert json.loads(report.model_dump_json()).keys() == expected.keys()
    for part in ("machine", "conditions", "runtime", "bundle", "producer", "loop"):
        assert json.loads(report.model_dump_json())[part].keys() == expected[part].keys()
    written = json.loads(report.model_dump_json())["components"]["unet"]
    assert written.keys() == expected["components"]["unet"].keys()
    assert written["memory"].keys() == expected["components"]["unet"]["memory"].keys()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["generate", SAMPLE], 2, "expected a prompt"),
        (["generate", SAMPLE, "a", "--steps", "many"], 2, "The value 'many' is invalid for '--steps <steps>'"),
        (["generate", SAMPLE, "a", "--colour", "red"], 2, "Unknown option '--colour'"),
        (["generate", SAMPLE, "a", "--latent-size", "big"], 2, "The value 'big' is invalid for '--latent-size"),
        (["generate", SAMPLE, "a", "--runtime", "metal"], 2, "'metal' is invalid for '--runtime <runtime>'"),
        (["generate", SAMPLE, "a", "-o", "a.jpg"], 2, "should end in .png"),
        (["paint"], 2, "Unexpected argument 'paint'"),
        (["bench"], 2, "Missing expected argument '<bundle>'"),
        (["fetch", "ftp://127.0.0.1/bundle", "-o", "bundle"], 2, "no address of http or https"),
        (["bench", SAMPLE, "--compute-unit", "ALL", "--runtime", "mil"], 2, "coreml runtime"),
        (["bench", REPOSITORY / "sfmobile"], 4, "no manifest.json"),
        (["bench", SAMPLE, "--runtime", "coreml"], 3, "Core ML is only on Apple's systems"),
        (["bench", SAMPLE, "--runtime", "mil", "--python", "/nowhere/python"], 3, "there is no such program"),
    ],
)
def test_mistakes_get_one_sentence_and_pythons_exit_codes(arguments: list[object], code: int, words: str) -> None:
    done = sfbench(*arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert done.stdout == ""


def test_a_damaged_bundle_is_refused_before_any_work(tmp_path: Path) -> None:
    case = next(case for case in json.loads(BROKEN.read_text())["cases"] if case["name"] == "changed weights")
    root = tmp_path / "bundle"
    subprocess.run(["cp", "-R", str(SAMPLE), str(root)], check=True)
    mutate(root, case)
    done = sfbench("generate", root, "a")
    assert done.returncode == 4
    assert "has changed" in done.stderr
    assert "weight.bin" in done.stderr


def test_help_lists_the_commands_and_what_exit_codes_mean() -> None:
    done = sfbench("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for word in ("generate", "bench", "verify", "fetch", "Exit codes: 0 ok"):
        assert word in done.stdout
    assert "--latent-size" in sfbench("generate", "--help").stdout


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Given]:
    """A picture and its mask as files that Pillow has compressed, and as Python reads them."""
    folder = tmp_path_factory.mktemp("given")
    rows, columns = np.mgrid[:16, :16] / 15
    pixels = np.round(255 * np.stack([rows, columns, rows * columns], axis=-1)).astype(np.uint8)
    cover = np.zeros((16, 16), np.uint8)
    cover[3:12, 5:] = 255
    Image.fromarray(pixels).save(folder / "picture.png", optimize=True)
    Image.fromarray(cover).save(folder / "mask.png")
    return folder / "picture.png", folder / "mask.png", Given(pixels, cover >= 128)


@pytest.mark.parametrize("sampler", ["ddim", "euler", "heun", "pndm", "dpm++2m", "unipc"])
def test_the_same_picture_from_a_picture_at_every_step(
    sampler: str, tiny_encoding_bundle: Bundle, given: tuple[Path, Path, Given], tmp_path: Path
) -> None:
    picture, _, taken = given
    request = Request("a red apple", seed=5, steps=5, sampler=sampler, given=replace(taken, mask=None, strength=0.84))
    asked = ("--image", picture, "--strength", 0.84, "--steps", 5, "--sampler", sampler)
    assert_same_run(tiny_encoding_bundle, request, tmp_path, *asked)


@pytest.mark.parametrize(("strength", "options"), [(None, ()), (0.6, ("--strength", 0.6, "--no-paste"))])
def test_the_same_picture_into_a_mask_at_every_step(
    strength: float | None,
    options: tuple[object, ...],
    tiny_encoding_bundle: Bundle,
    given: tuple[Path, Path, Given],
    tmp_path: Path,
) -> None:
    picture, mask, taken = given
    request = Request("a red apple", seed=6, steps=4, given=replace(taken, strength=strength, paste=strength is None))
    asked = ("--image", picture, "--mask", mask, "--steps", 4, *options)
    assert_same_run(tiny_encoding_bundle, request, tmp_path, *asked)


@pytest.mark.parametrize("fit", ["fill", "fit", "stretch"])
def test_the_same_picture_of_one_of_another_size(fit: Fit, tiny_encoding_bundle: Bundle, tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    Image.fromarray(generator.integers(0, 256, (50, 33, 3), np.uint8)).save(tmp_path / "tall.png")
    Image.fromarray(generator.integers(0, 256, (50, 33), np.uint8)).save(tmp_path / "cover.png")
    taken, _ = read_given(tmp_path / "tall.png", (16, 16), mask=tmp_path / "cover.png", fit=fit)
    request = Request("a red apple", seed=5, steps=1, given=taken)
    asked = ("--image", tmp_path / "tall.png", "--mask", tmp_path / "cover.png", "--fit", fit, "--steps", 1)
    assert_same_run(tiny_encoding_bundle, request, tmp_path, *asked)


@pytest.mark.parametrize("task", ["inpainting", "InstructPix2Pix"])
def test_the_same_picture_of_models_made_for_it_at_every_step(
    task: str, given: tuple[Path, Path, Given], tmp_path: Path
) -> None:
    family = NETWORKS_ONLY[task]
    small = replace(family, unet={**family.unet, **blocks("x."), "layers_per_block": 1})
    checkpoint = Checkpoint.open(write_family(small, tmp_path / "checkpoint"))
    bundle = export_bundle(checkpoint, tmp_path / "bundle", ExportOptions())
    wide = {}
    for name, path in (("picture", given[0]), ("mask", given[1])):
        wide[name] = tmp_path / f"{name}.png"
        Image.open(path).resize((64, 64), Image.Resampling.NEAREST).save(wide[name])
    mask = wide["mask"] if task == "inpainting" else None
    taken, _ = read_given(wide["picture"], (64, 64), mask=mask)
    request = Request("make it red", seed=7, steps=3, guidance_scale=5.0, given=taken)
    asked = ("--image", wide["picture"], "--steps", 3, "--guidance", 5, *(() if mask is None else ("--mask", mask)))
    assert_same_run(bundle, request, tmp_path, *asked)


def test_a_picture_that_can_not_be_taken_is_one_sentence(
    tiny_encoding_bundle: Bundle, bundle: Bundle, given: tuple[Path, Path, Given], tmp_path: Path
) -> None:
    Image.new("RGB", (32, 16)).save(tmp_path / "wide.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    (tmp_path / "text.png").write_text("no picture")
    for root, options, code, words in (
        (tiny_encoding_bundle.root, ("--image", tmp_path / "wide.png", "--fit", "wide"), 2, "'wide' is invalid"),
        (tiny_encoding_bundle.root, ("--image", tmp_path / "text.png"), 4, "no PNG"),
        (tiny_encoding_bundle.root, ("--image", given[0], "--strength", 0), 2, "makes no sense"),
        (
            tiny_encoding_bundle.root,
            ("--image", given[0], "--mask", tmp_path / "small.png"),
            2,
            "of the picture's size",
        ),
        (tiny_encoding_bundle.root, ("--strength", 0.5), 2, "give one (--image)"),
        (bundle.root, ("--image", given[0]), 4, "encoder"),
    ):
        done = with_worker("generate", root, "a red apple", *options, "-o", tmp_path / "out.png")
        assert done.returncode == code and words in done.stderr, done.stderr
