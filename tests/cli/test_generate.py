from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.sampling.picture import read_settings
from sfmobile.sampling.samplers.named import walkers
from tests.cli.run import run
from tests.exported import MULTIFUNCTION, SharedExports


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_the_same_seed_gives_the_same_file_and_another_one_another(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        outcome = run(
            capsys,
            "generate",
            tiny_bundle.root,
            "a red apple",
            "--steps",
            2,
            "--seed",
            seed,
            "-o",
            tmp_path / f"{name}.png",
        )
        assert outcome.code == 0 and "mil fp32" in outcome.out
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert not np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "c.png"))


def test_steps_and_guidance_come_from_the_manifest_unless_given(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    run(capsys, "generate", tiny_bundle.root, "a", "-o", tmp_path / "default.png")
    run(capsys, "generate", tiny_bundle.root, "a", "--steps", 3, "--guidance", 2.5, "-o", tmp_path / "given.png")
    default, given = read_settings(tmp_path / "default.png"), read_settings(tmp_path / "given.png")
    assert default["steps"] == tiny_bundle.manifest.pipeline.default_steps
    assert default["guidance_scale"] == tiny_bundle.manifest.guidance.default_scale
    assert given["steps"] == 3 and given["guidance_scale"] == 2.5


def test_several_prompts_are_numbered_and_the_sheet_holds_them_all(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    out = tmp_path / "new" / "out.png"
    outcome = run(
        capsys,
        *("generate", tiny_bundle.root, "a red apple", "a blue star", "😀", "红", "x"),
        *("--steps", 1, "-o", out, "--sheet", tmp_path / "sheet.png", "--json"),
    )
    assert outcome.code == 0
    said = json.loads(outcome.out)
    paths = [Path(picture["path"]) for picture in said["pictures"]]
    assert paths == [out.with_name(f"out-{number}.png") for number in range(1, 6)]
    assert [picture["settings"]["prompt"] for picture in said["pictures"]][2:4] == ["😀", "红"]
    height, width, _ = pixels(paths[0]).shape
    sheet = pixels(tmp_path / "sheet.png")
    assert sheet.shape == (2 * height, 4 * width, 3)
    assert np.array_equal(sheet[:height, width : 2 * width], pixels(paths[1]))
    assert np.array_equal(sheet[height:, :width], pixels(paths[4]))


def test_prompts_seeds_guidance_and_steps_make_a_grid(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("# two of them\na blue star\n")
    outcome = run(
        capsys,
        *("generate", tiny_bundle.root, "a red apple", "--prompts", prompts, "--seeds", "1-2", "--steps", "1,2"),
        *("-o", tmp_path / "p.png", "--grid", tmp_path / "grid.png", "--json"),
    )
    assert outcome.code == 0, outcome.err
    said = json.loads(outcome.out)
    names = [Path(one["path"]).name for one in said["pictures"]]
    assert names == [f"p-{n}-seed-{seed}-steps-{steps}.png" for n in (1, 2) for seed in (1, 2) for steps in (1, 2)]
    settings = [read_settings(tmp_path / name) for name in names]
    assert [one["prompt"] for one in settings] == ["a red apple"] * 4 + ["a blue star"] * 4
    assert [(one["seed"], one["steps"]) for one in settings[:4]] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert said["grid"] == str(tmp_path / "grid.png")
    grid, one = pixels(tmp_path / "grid.png"), pixels(tmp_path / names[0])
    assert grid.shape[1] >= 4 * one.shape[1] and grid.shape[0] >= 2 * one.shape[0]


def test_several_bundles_draw_the_same_side_by_side(
    tiny_bundle: Bundle, tiny_palettized_bundle: Bundle, tmp_path: Path, capsys
) -> None:
    outcome = run(
        capsys,
        *("generate", tiny_bundle.root, "a red apple", "--beside", tiny_palettized_bundle.root, "--steps", 1),
        *("-o", tmp_path / "p.png", "--grid", tmp_path / "grid.png"),
    )
    assert outcome.code == 0, outcome.err
    for bundle in (tiny_bundle, tiny_palettized_bundle):
        assert (tmp_path / f"p-{bundle.root.name}.png").is_file()
    again = run(capsys, "generate", tiny_bundle.root, "a", "--beside", tiny_bundle.root, "-o", tmp_path / "q.png")
    assert again.code == 2 and "one name" in again.sentence


def test_the_built_in_model_says_what_it_never_learnt(tiny_bundle: Bundle, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sfmobile.sampling.vocabulary.BUILT_IN", tiny_bundle.manifest.name)
    options = ("--steps", 1, "-o", tmp_path / "p.png")
    assert "never learnt 'tree'" in run(capsys, "generate", tiny_bundle.root, "a green tree", *options).err
    assert "never" not in run(capsys, "generate", tiny_bundle.root, "a red apple", *options).err


def test_sizes_of_pictures_are_those_of_the_bundle(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    out = ("--steps", 1, "-o", tmp_path / "p.png")
    assert run(capsys, "generate", tiny_bundle.root, "a", "--size", "16x16", *out).code == 0
    assert "8x16" in run(capsys, "generate", tiny_bundle.root, "a", "--size", "16x32", *out).sentence
    assert (
        "leave one out"
        in run(capsys, "generate", tiny_bundle.root, "a", "--size", 16, "--latent-size", 8, *out).sentence
    )
    assert "multiple" in run(capsys, "generate", tiny_bundle.root, "a", "--size", "15x16", *out).sentence


def test_models_lists_what_the_built_in_one_draws(capsys) -> None:
    said = json.loads(run(capsys, "models", "--json").out)
    assert said["model"] == "glyph" and len(said["things"]) == 288 and "sd15" in said["layouts"]
    shown = " ".join(run(capsys, "models").out.split())
    assert all(thing in shown for thing in said["things"])


def test_samplers_are_compared_in_one_labelled_picture(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    out = tmp_path / "sheet.png"
    outcome = run(
        capsys,
        *("generate", tiny_bundle.root, "a red apple", "--seed", 3, "-o", out, "--json"),
        *("--compare-samplers", "ddim,heun,lcm", "--compare-steps", "1,2"),
    )
    assert outcome.code == 0
    said = json.loads(outcome.out)
    assert said["samplers"] == {"ddim": [1, 2], "heun": [1, 3], "lcm": [1, 2]}
    alone = tmp_path / "alone.png"
    assert (
        run(
            capsys,
            "generate",
            tiny_bundle.root,
            "a red apple",
            "--seed",
            3,
            "--steps",
            2,
            "--sampler",
            "lcm",
            "-o",
            alone,
        ).code
        == 0
    )
    assert read_settings(alone)["sampler"] == "lcm"
    height, width, _ = pixels(alone).shape
    assert np.array_equal(pixels(out)[-height - 2 : -2, -width - 2 : -2], pixels(alone))


def test_all_samplers_that_can_walk_the_model_are_compared(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    outcome = run(
        capsys,
        *("generate", tiny_bundle.root, "a", "--guidance", 1, "-o", tmp_path / "all.png", "--json"),
        *("--compare-samplers", "all", "--compare-steps", "2"),
    )
    assert outcome.code == 0, outcome.err
    assert tuple(json.loads(outcome.out)["samplers"]) == walkers(tiny_bundle.manifest.sampler)


def test_quick_previews_are_files_of_steps_or_one_labelled_picture(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    options = ("--steps", 2, "--guidance", 1, "-o", tmp_path / "a.png", "--json")
    outcome = run(capsys, "generate", tiny_bundle.root, "a", *options, "--previews", tmp_path / "steps")
    assert outcome.code == 0, outcome.err
    files = [tmp_path / "steps" / f"a-step-0{number}.png" for number in (1, 2)]
    assert json.loads(outcome.out)["pictures"][0]["previews"] == [str(path) for path in files]
    # At the resolution of the latents.
    assert pixels(files[0]).shape == (8, 8, 3)
    sheet = tmp_path / "steps.png"
    two = ("generate", tiny_bundle.root, "a", "b", *options)
    assert run(capsys, *two, "--previews", sheet).code == 0
    first = pixels(files[0]).repeat(12, 0).repeat(12, 1)
    found = pixels(sheet)
    assert any(
        np.array_equal(found[y : y + 96, x : x + 96], first) for y in range(40) for x in range(found.shape[1] - 95)
    )
    assert run(capsys, *two[:3], *options, "--preview").code == 0
    assert pixels(tmp_path / "a-step-01.png").shape == (16, 16, 3)


def test_eta_draws_anew_on_the_way_and_is_written_down(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    drawn = {}
    for eta in (None, 0, 0.5):
        path = tmp_path / f"{eta}.png"
        options = () if eta is None else ("--eta", eta)
        assert (
            run(
                capsys,
                *("generate", tiny_bundle.root, "a", "--steps", 2, "--guidance", 1, "-o", path),
                *("--sampler", "ddim", *options),
            ).code
            == 0
        )
        drawn[eta] = pixels(path)
        assert read_settings(path).get("eta") == eta
    assert np.array_equal(drawn[None], drawn[0]) and not np.array_equal(drawn[0], drawn[0.5])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--compare-samplers", "all", "--previews", "x.png"), "--previews is of single pictures"),
        (("--previews-by", "decoder"), "--previews-by says who makes the pictures of --previews"),
        (("--control-end", 0.5), "--control-start and --control-end are of --control NAME=FILE"),
        (("--sampler", "euler", "--eta", 0.5), "The sampler 'euler' has no eta; ddim and tcd have."),
        (("--sampler", "tcd", "--eta", 1.5), "An eta of 1.5 is impossible; expected 0"),
        (("--compare-samplers", "all", "--eta", 0.5), "takes neither --steps, --sampler nor --eta"),
        (("--sampler", "dreams"), "no sampler 'dreams'; expected one of ddim, pndm, euler"),
        (("--sampler", "lcm", "--steps", 51), "Expected 1 to 50 steps, those this sampler's model was distilled on"),
        (("--compare-samplers", "all", "--steps", 4), "--compare-samplers draws one prompt and takes neither"),
        (("--compare-samplers", "ddim,dreams"), "no sampler 'dreams'"),
        (("--compare-samplers", "ddim", "--compare-steps", "4,x"), "--compare-steps 4,x is no list of numbers"),
        (("--compare-samplers", "ddim", "--compare-steps", "0"), "Expected 1 to 1000 steps"),
    ],
)
def test_a_sampler_that_can_not_be_is_refused_in_one_sentence(
    options: tuple[str | int, ...], problem: str, tiny_bundle: Bundle, tmp_path: Path, capsys
) -> None:
    outcome = run(capsys, "generate", tiny_bundle.root, "a", "-o", tmp_path / "a.png", *options)
    assert outcome.code == 2 and problem in " ".join(outcome.err.split())
    assert not (tmp_path / "a.png").exists()


def test_previews_show_every_step_and_leave_the_picture_alone(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    with_previews = tmp_path / "with.png"
    run(capsys, "generate", tiny_bundle.root, "a", "--steps", 3, "--preview", "-o", with_previews)
    run(capsys, "generate", tiny_bundle.root, "a", "--steps", 3, "-o", tmp_path / "without.png")
    previews = sorted(tmp_path.glob("with-step-*.png"))
    assert [path.name for path in previews] == ["with-step-01.png", "with-step-02.png", "with-step-03.png"]
    assert np.array_equal(pixels(with_previews), pixels(tmp_path / "without.png"))
    # Behind the last step of DDIM nothing is left to remove.
    assert (
        np.abs(pixels(previews[-1]).astype(int) - pixels(with_previews)).mean()
        < np.abs(pixels(previews[0]).astype(int) - pixels(with_previews)).mean()
    )


def test_the_exported_programs_draw_what_the_torch_reference_draws(
    tiny_bundle: Bundle, tiny_checkpoint: Checkpoint, tmp_path: Path, capsys
) -> None:
    for runtime, options in (("mil", ()), ("torch", ("--source", tiny_checkpoint.root))):
        path = tmp_path / f"{runtime}.png"
        assert (
            run(capsys, "generate", tiny_bundle.root, "a red apple", "--runtime", runtime, *options, "-o", path).code
            == 0
        )
    difference = np.abs(pixels(tmp_path / "mil.png").astype(int) - pixels(tmp_path / "torch.png"))
    assert difference.max() <= 3


def test_a_prompt_beyond_the_text_encoder_is_cut_and_says_so(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    outcome = run(
        capsys,
        "generate",
        tiny_bundle.root,
        "apple " * 1700,
        "--negative",
        "a " * 99,
        "--steps",
        1,
        "-o",
        tmp_path / "a.png",
    )
    assert outcome.code == 0 and "tokens longer than the 77" in outcome.err
    assert "The negative prompt is " in outcome.err
    assert read_settings(tmp_path / "a.png")["prompt_tokens_dropped"] > 1000


@pytest.mark.parametrize(
    "prompt", ["🍎🍏", "红苹果 と 사과", "a\x00b\x07c\x1b[31m", "'; DROP TABLE --", "[bold]x[/bold]"]
)
def test_any_text_is_a_prompt(prompt: str, tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    outcome = run(capsys, "generate", tiny_bundle.root, prompt, "--steps", 1, "-o", tmp_path / "a.png")
    assert outcome.code == 0 and "\x1b[31m" not in outcome.out and "\x07" not in outcome.out
    assert read_settings(tmp_path / "a.png")["prompt"] == prompt


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["", "--steps", 1], 2, "Prompt 1 is empty"),
        ([" \n", "--steps", 1], 2, "Prompt 1 is empty"),
        (["a", "--steps", 0], 2, "found 0"),
        (["a", "--steps", -3], 2, "found -3"),
        (["a", "--steps", 1001], 2, "found 1001"),
        (["a", "--guidance", "nan"], 2, "--guidance nan is no number that can be used"),
        (["a", "--guidance", -1], 2, "guidance scale -1"),
        (["a", "--seed", -1], 2, "-1"),
        (["a", "--seed", 2**64], 2, str(2**64)),
        ([], 2, "nothing to draw"),
        (["a", "--seeds", "3-1"], 2, "--seeds 3-1"),
        (["a", "--steps", "4,x"], 2, "--steps 4,x"),
        (["a", "--guidance", "2,2"], 2, "each once"),
        (["a", "--prompts", "absent.txt"], 4, "absent.txt"),
        (["a", "--grid", "grid.gif"], 2, "should end in .png"),
        (["a", "--seeds", "0-1", "--compare-samplers", "all"], 2, "one prompt with one seed"),
        (["a", "-o", "picture.jpg"], 2, "should end in .png"),
        (["a", "--sheet", "sheet.gif"], 2, "should end in .png"),
        (["a", "--compute-unit", "CPU_AND_NE", "--runtime", "mil"], 2, "--compute-unit is for the coreml runtime"),
        (["a", "--precision", "fp16", "--runtime", "torch"], 2, "--precision fp16"),
        (["a", "--runtime", "torch", "--source", "nowhere"], 4, "nowhere"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(
    options: list[object], code: int, sentence: str, tiny_bundle: Bundle, tmp_path: Path, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run(capsys, "generate", tiny_bundle.root, *options)
    assert outcome.code == code and sentence in outcome.sentence and outcome.out == ""
    assert list(tmp_path.iterdir()) == []


def test_core_ml_is_refused_off_macos_in_one_sentence(tiny_bundle: Bundle, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    outcome = run(capsys, "generate", tiny_bundle.root, "a", "--runtime", "coreml", "-o", tmp_path / "a.png")
    assert outcome.code == 3 and "macOS" in outcome.sentence


def test_another_guidance_batch_and_latent_size_of_a_multifunction_bundle(
    tiny_exports: SharedExports, tmp_path: Path, capsys
) -> None:
    root = shutil.copytree(tiny_exports(MULTIFUNCTION).root, tmp_path / "functions")
    # These options ask for what is there already.
    exported = run(
        capsys,
        *("export", tiny_exports.checkpoint.root, "-o", root, "--target", "ios18", "--multifunction", "--bits", 4),
        *("--latent-size", "8x8", "--latent-size", "8x16", "--multifunction-decoder", "--no-golden", "--json"),
    )
    assert exported.code == 0
    assert all(part["reused"] for part in json.loads(exported.out)["components"].values())
    for batch in (2, 1):
        outcome = run(
            capsys,
            *("generate", root, "a", "--steps", 1, "-o", tmp_path / f"{batch}.png"),
            *("--latent-size", "8x16", "--guidance-batch", batch),
        )
        assert outcome.code == 0
    assert pixels(tmp_path / "1.png").shape == (16, 32, 3)
    assert np.abs(pixels(tmp_path / "1.png").astype(int) - pixels(tmp_path / "2.png")).max() <= 1
    report = tmp_path / "bench.json"
    measured = run(
        capsys, "bench", root, "-n", 1, "--steps", 1, "--latent-size", "8x16", "--guidance-batch", 1, "-o", report
    )
    assert measured.code == 0 and "Text to picture" in measured.out
    refused = run(capsys, "generate", root, "a", "--latent-size", "16x16", "-o", tmp_path / "x.png")
    assert refused.code == 2 and "it was exported for 8x8 and batch 2" in refused.sentence
    assert run(capsys, "generate", root, "a", "--guidance-batch", 3, "-o", tmp_path / "x.png").code == 2
    assert not (tmp_path / "x.png").exists()


def test_a_picture_is_started_from_and_repainted_where_the_mask_is_white(
    tiny_encoding_bundle: Bundle, tmp_path: Path, capsys
) -> None:
    picture, mask, wide = (tmp_path / f"{name}.png" for name in ("picture", "mask", "wide"))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)).save(picture)
    Image.open(picture).resize((32, 16)).save(wide)
    cover = np.zeros((16, 16), np.uint8)
    cover[:, 8:] = 255
    Image.fromarray(cover).save(mask)
    asked = ("generate", tiny_encoding_bundle.root, "a red apple", "--steps", 4, "--image")

    def drawn(name: str, *options: object) -> np.ndarray:
        outcome = run(capsys, *asked, *options, "-o", tmp_path / f"{name}.png")
        assert outcome.code == 0, outcome.err
        return pixels(tmp_path / f"{name}.png")

    near, far = drawn("near", picture, "--strength", 0.25), drawn("far", picture, "--strength", 1)
    settings = read_settings(tmp_path / "near.png")
    assert settings["strength"] == 0.25 and len(str(settings["image_sha256"])) == 64
    assert not np.array_equal(near, far)
    repainted = drawn("repainted", picture, "--mask", mask)
    assert np.array_equal(repainted[:, :8], pixels(picture)[:, :8])
    assert not np.array_equal(repainted[:, 8:], pixels(picture)[:, 8:])
    assert not np.array_equal(drawn("left", picture, "--mask", mask, "--no-paste")[:, :8], pixels(picture)[:, :8])
    outcome = run(capsys, *asked, wide, "--strength", 0.5, "-o", tmp_path / "fitted.png", "--json")
    assert len(json.loads(outcome.out)["pictures"][0]["steps_seconds"]) == 2
    assert "The picture of 32x16 was scaled to 32x16 and cut to 16x16." in outcome.err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--strength", 0.5), 2, "give one (--image)"),
        (("--image", "absent.png"), 4, "absent.png"),
        (("--image", "a.png", "--strength", 0), 2, "strength 0 makes no sense"),
        (("--image", "a.png", "--strength", 1.2), 2, "strength 1.2 makes no sense"),
        (("--image", "a.png", "--image-guidance", 2), 2, "isn't guided by pictures"),
        (("--image", "a.png", "--mask", "small.png"), 2, "give a mask of the picture's size"),
        (("--image", "a.png", "--fit", "crop"), 2, "crop"),
    ],
)
def test_what_can_not_be_done_with_a_picture_is_one_sentence(
    options: tuple[object, ...],
    code: int,
    message: str,
    tiny_encoding_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys,
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (16, 16), "red").save("a.png")
    Image.new("L", (8, 8), 255).save("small.png")
    outcome = run(capsys, "generate", tiny_encoding_bundle.root, "a red apple", "--steps", 2, *options)
    assert outcome.code == code and message in outcome.err


def test_a_bundle_without_the_encoder_says_what_adds_it(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.png")
    outcome = run(capsys, "generate", tiny_bundle.root, "a red apple", "--image", tmp_path / "a.png")
    assert outcome.code == 4 and "--component encoder" in outcome.err


def test_a_control_picture_is_followed_and_written_down(tiny_controlled_bundle: Bundle, tmp_path: Path, capsys) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 32, 3), np.uint8)).save(tmp_path / "edges.png")
    asked = ("generate", tiny_controlled_bundle.root, "a red apple", "--steps", 2, "-o", tmp_path / "out.png")
    assert run(capsys, *asked).code == 0
    free = pixels(tmp_path / "out.png")
    outcome = run(capsys, *asked, "--control", f"edges={tmp_path / 'edges.png'}:0.8", "--control-end", 0.5)
    assert outcome.code == 0, outcome.err
    assert "The picture of 32x16 was scaled to 32x16 and cut to 16x16." in outcome.err
    assert not np.array_equal(free, pixels(tmp_path / "out.png"))
    settings = read_settings(tmp_path / "out.png")
    assert (settings["control_edges_scale"], settings["control_edges_end"]) == (0.8, 0.5)


def test_a_flagged_picture_is_black_and_everything_says_so(tiny_safe_bundle: Bundle, tmp_path: Path, capsys) -> None:
    root = Path(shutil.copytree(tiny_safe_bundle.root, tmp_path / "bundle"))
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["safety"]["concept_thresholds"] = [-2.0] * 17
    (root / "manifest.json").write_text(json.dumps(manifest))
    asked = ("generate", root, "a red apple", "--steps", 1, "--guidance", 1, "-o", tmp_path / "out.png")
    outcome = run(capsys, *asked)
    assert outcome.code == 0, outcome.err
    assert "The safety checker flags this picture: it is black." in outcome.err
    assert "flagged" in outcome.out and not pixels(tmp_path / "out.png").any()
    assert read_settings(tmp_path / "out.png")["safety_checker"] == "flagged"
    (picture,) = json.loads(run(capsys, *asked, "--json").out)["pictures"]
    assert picture["safety"]["flagged"] and len(picture["safety"]["concept_scores"]) == 17
    (picture,) = json.loads(run(capsys, *asked, "--json", "--no-safety-checker").out)["pictures"]
    assert picture["safety"] is None and picture["settings"]["safety_checker"] == "off"
    assert pixels(tmp_path / "out.png").any()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            ("--control", "edges=a.png"),
            2,
            "has no ControlNet 'edges' (it has none); export it with --control NAME=DIR.",
        ),
        (("--control", "a.png"), 2, "--control a.png names no picture"),
        (("--control", "edges=absent.png"), 4, "absent.png"),
        (("--prompt-syntax", "compel"), 2, "compel"),
    ],
)
def test_what_can_not_control_or_be_read_is_one_sentence(
    options: tuple[object, ...],
    code: int,
    message: str,
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys,
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (16, 16), "red").save("a.png")
    outcome = run(capsys, "generate", tiny_bundle.root, "a red apple", "--steps", 2, *options)
    assert outcome.code == code and message in outcome.err


def test_weights_are_read_where_they_are_asked_for(tiny_bundle: Bundle, tmp_path: Path, capsys) -> None:
    asked = ("generate", tiny_bundle.root, "--steps", 1, "-o", tmp_path / "out.png", "--prompt-syntax", "a1111")
    assert run(capsys, *asked, "a (red:1.4) apple").code == 0
    assert read_settings(tmp_path / "out.png")["prompt_syntax"] == "a1111"
    outcome = run(capsys, *asked, "a [red:green:0.5] apple")
    assert outcome.code == 2 and "changes the prompt from step to step" in outcome.err
