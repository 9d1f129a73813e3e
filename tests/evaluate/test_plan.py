from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sfmobile.errors import UsageError
from sfmobile.evaluate.evaluation import Evaluation, EvaluationConfig
from sfmobile.evaluate.plan import RECORD, Plan, measure_throughput, run_plan
from sfmobile.evaluate.report import Record
from sfmobile.evaluate.run_samplers import RunSamplers, Variant
from sfmobile.evaluate.targets import Target
from sfmobile.nets.autoencoder import Decoder, Encoder
from sfmobile.nets.text_encoder import TextEncoder
from sfmobile.nets.unet import UNet
from sfmobile.train.config import read_config
from sfmobile.train.recipe import Recipe
from sfmobile.train.stages.run import Networks, Run
from sfmobile.train.stages.steps import GUIDANCE_CHANNELS
from tests.evaluate.test_evaluation import judges
from tests.evaluate.tiny_sprites import encode, sprite_pool
from tests.tiny import REPOSITORY, TINY_AUTOENCODER, TINY_TEXT_ENCODER, TINY_UNET

SIDE = 16
HALF = replace(TINY_AUTOENCODER, name="half", decoder_channels=(8, 16))
NETWORKS = Networks(TINY_TEXT_ENCODER, (TINY_UNET,), (TINY_AUTOENCODER, HALF))
PLAN = Plan(
    variants=(
        Variant("teacher, 2 steps", "teacher", 2, 2.0, grid=True),
        Variant("student", "steps-1", 1, 2.0, decoder="decoder", parts=("distribution", "recognition"), grid=True),
        Variant("absent", "steps-vanilla", 1, 2.0),
        Variant("w as an input", "steps-conditioned", 1, 2.0),
        Variant("guidance 2, student", "steps-1", 1, 2.0, decoder="decoder", series="guidance: student"),
    ),
    evaluation=EvaluationConfig(pictures=12, composed=2, memorised=4, training=6, batch=8),
    grid_captions=("a fox", "a red boat"),
    own_latents=6,
    targets=(Target("told", "agreement", "student", at_least=-1.0),),
    notes=("Nothing but shapes.",),
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    torch.manual_seed(0)

    def state(**modules: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {f"{name}.{key}": value for name, net in modules.items() for key, value in net.state_dict().items()}

    stages = {
        "autoencoder": state(encoder=Encoder(TINY_AUTOENCODER), decoder=Decoder(TINY_AUTOENCODER)),
        "teacher": state(unet=UNet(TINY_UNET), text_encoder=TextEncoder(TINY_TEXT_ENCODER)),
        "steps-1": state(student=UNet(TINY_UNET)),
        "decoder": state(student=Decoder(HALF)),
        "steps-conditioned": state(student=UNet(replace(TINY_UNET, guidance_embedding_dim=GUIDANCE_CHANNELS))),
    }
    for name, tensors in stages.items():
        (tmp_path / "run" / name).mkdir(parents=True)
        save_file(tensors, tmp_path / "run" / name / "weights.safetensors")
    return Run(tmp_path / "run", NETWORKS, cpu=True)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    small = replace(judges(), encode=lambda captions: encode(captions).remainder(TINY_TEXT_ENCODER.vocabulary))
    return Evaluation(sprite_pool(), small, PLAN.evaluation, side=SIDE)


def test_a_plan_is_measured_resumed_and_reported(run: Run, evaluation: Evaluation, tmp_path: Path) -> None:
    out, said = tmp_path / "out", []
    record = run_plan(PLAN, run, evaluation, out, said.append)
    assert [item.name for item in record.measurements] == [
        "real held-out pictures",
        "real held-out pictures through 'autoencoder'",
        "real held-out pictures through 'decoder'",
        "teacher, 2 steps",
        "student",
        "w as an input",
        "guidance 2, student",
    ]
    assert any("absent: left out, stage 'steps-vanilla' has no weights" in line for line in said)
    through, _, teacher, student, _, again = record.measurements[1:]
    assert through.settings["decoder"] == "autoencoder"
    assert through.figures["FD-EffNetLite0"] > 0
    assert re.fullmatch(r"[0-9a-f]{12} [0-9a-f]{12}", str(teacher.settings["weights"]))
    assert {key: value for key, value in teacher.settings.items() if key != "weights"} == {
        "stage": "teacher",
        "steps": 2,
        "guidance": 2.0,
        "decoder": "autoencoder",
        "first_seed": 0,
    }
    # The sweep's point is the student's own figure, not a second measurement of it.
    assert again.figures["agreement"] == student.figures["agreement"]
    assert not any(name.startswith("recognised") for name in again.figures)
    assert "agreement" in teacher.figures
    assert any(name.startswith("recognised") for name in student.figures)
    assert record.extra["Decoder pair"]["macs_ratio"] > 2
    assert Record.read(out / RECORD) == record
    assert "\n\nNothing but shapes.\n\n" in (out / "evaluation.md").read_text()
    assert "| told | agreement: student | ≥ -1 |" in (out / "evaluation.md").read_text()
    with Image.open(out / "grid.png") as grid:
        assert grid.height > 2 * SIDE

    record.extra["Decoder pair"]["macs_ratio"] = 0.5  # Kept as it is: nothing was trained since.
    record.write(out / RECORD)
    again = run_plan(PLAN, run, evaluation, out, said.append)
    assert again == record
    assert sum("teacher, 2 steps:" in line for line in said) == 1


def test_variants_are_measured_one_by_one_in_the_plans_order(run: Run, evaluation: Evaluation, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_plan(PLAN, run, evaluation, out, only=("student",))
    record = run_plan(PLAN, run, evaluation, out, only=("teacher, 2 steps",))
    assert [item.name for item in record.measurements][3:] == ["teacher, 2 steps", "student"]
    with pytest.raises(UsageError, match="no variant 'nobody'"):
        run_plan(PLAN, run, evaluation, out, only=("nobody",))


def test_a_stage_that_was_trained_again_is_measured_again(run: Run, evaluation: Evaluation, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = run_plan(PLAN, run, evaluation, out)
    save_file(
        {f"student.{key}": value for key, value in UNet(TINY_UNET).state_dict().items()},
        run.root / "steps-1" / "weights.safetensors",
    )
    said: list[str] = []
    after = run_plan(PLAN, run, evaluation, out, said.append)
    assert {line.split(":")[0] for line in said} == {"absent", "student", "guidance 2, student"}
    assert [item.name for item in after.measurements] == [item.name for item in before.measurements]
    assert after.find("student") != before.find("student")
    assert after.find("teacher, 2 steps") == before.find("teacher, 2 steps")


def test_real_pictures_go_again_through_a_decoder_that_was_trained_again(
    run: Run, evaluation: Evaluation, tmp_path: Path
) -> None:
    before = run_plan(PLAN, run, evaluation, tmp_path / "out")
    save_file(
        {f"student.{key}": value for key, value in Decoder(HALF).state_dict().items()},
        run.root / "decoder" / "weights.safetensors",
    )
    after = run_plan(PLAN, run, evaluation, tmp_path / "out")
    assert [item.name for item in after.measurements] == [item.name for item in before.measurements]
    changed = {item.name for item in after.measurements if item != before.find(item.name)}
    assert "real held-out pictures through 'decoder'" in changed
    assert after.extra["Decoder pair"] != before.extra["Decoder pair"]
    assert "real held-out pictures through 'autoencoder'" not in changed
    assert after.find("teacher, 2 steps") == before.find("teacher, 2 steps")


def test_throughput_is_timed_apart_and_kept(run: Run, evaluation: Evaluation, tmp_path: Path) -> None:
    out = tmp_path / "out"
    record = run_plan(PLAN, run, evaluation, out, only=("student",))
    assert not any("pictures per second" in item.figures for item in record.measurements)
    timed = measure_throughput(PLAN, run, evaluation, out, 3)
    assert set(timed.extra["Pictures per second"]) == {"teacher, 2 steps", "student"}
    assert min(timed.extra["Pictures per second"].values()) > 0
    again = run_plan(PLAN, run, evaluation, out, only=("teacher, 2 steps",))
    assert again.extra["Pictures per second"] == timed.extra["Pictures per second"]


def test_figures_of_other_prompts_are_not_put_into_one_table(run: Run, evaluation: Evaluation, tmp_path: Path) -> None:
    run_plan(PLAN, run, evaluation, tmp_path / "out", only=("student",))
    path = tmp_path / "out" / RECORD
    path.write_text(path.read_text().replace('"composed": 2', '"composed": 3'))
    with pytest.raises(UsageError, match="its figures were measured with config="):
        run_plan(PLAN, run, evaluation, tmp_path / "out")


def test_a_conditioned_student_gets_w_as_an_input_in_one_evaluation_a_step(run: Run, evaluation: Evaluation) -> None:
    unet, _, _ = run.denoiser("steps-conditioned")
    assert unet.layout.guidance_embedding_dim == GUIDANCE_CHANNELS
    with torch.no_grad():
        unet.time_embedding.cond_proj.weight.normal_(std=0.3)
    save_file(
        {f"student.{key}": value for key, value in unet.state_dict().items()},
        run.root / "steps-conditioned" / "weights.safetensors",
    )
    samplers = RunSamplers(run, evaluation.judges.encode, SIDE)
    batches = []
    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: batches.append(len(inputs[0])) if isinstance(module, UNet) else None
    )
    try:
        low, high = (
            samplers.sampler(Variant("w", "steps-conditioned", 3, scale))(["a fox"], [1]) for scale in (2.0, 9.0)
        )
    finally:
        handle.remove()
    assert batches == [1] * 6
    assert (low - high).abs().max() > 1e-4


def test_a_stage_is_sampled_with_the_text_encoder_that_it_trained(run: Run) -> None:
    torch.manual_seed(7)
    own = TextEncoder(TINY_TEXT_ENCODER)
    tensors = {f"unet.{key}": value for key, value in UNet(TINY_UNET).state_dict().items()}
    (run.root / "early").mkdir()
    save_file(
        tensors | {f"text_encoder.{key}": value for key, value in own.state_dict().items()},
        run.root / "early" / "weights.safetensors",
    )

    def embedding(stage: str) -> torch.Tensor:
        return run.denoiser(stage)[1].token_embedding.weight

    assert torch.equal(embedding("early"), own.token_embedding.weight)
    assert torch.equal(embedding("steps-1"), embedding("teacher"))
    assert not torch.equal(embedding("early"), embedding("teacher"))


def test_a_decoder_of_no_known_layout_is_named(run: Run, evaluation: Evaluation, tmp_path: Path) -> None:
    run.networks = replace(NETWORKS, autoencoders=(TINY_AUTOENCODER,))
    with pytest.raises(UsageError, match="its decoder fits none of the known layouts"):
        run_plan(PLAN, run, evaluation, tmp_path / "out")


@pytest.mark.parametrize("recipe", ["glyph-128", "glyph-128-large", "glyph-64"])
def test_the_recipes_plan_names_its_stages_and_pictures(recipe: str) -> None:
    directory = REPOSITORY / "models" / "recipes" / recipe
    plan = read_config(Plan, directory / "evaluation.json")
    stages = Recipe.read(directory)
    names = {variant.name for variant in plan.variants} | {"Decoder pair"}
    assert {name for target in plan.targets for name in (target.of, target.than) if name is not None} <= names
    if recipe != "glyph-128-large":
        for variant in plan.variants:
            assert stages.stage(variant.stage).kind in ("denoiser", "steps")
            assert stages.stage(variant.decoder).kind in ("autoencoder", "decoder")
    assert (directory / f"{plan.pictures}.json").exists()
    assert {"guidance", "steps"} == {variant.series.split(":")[0] for variant in plan.variants if variant.series}


def test_two_variants_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="two variants called 'absent'"):
        replace(PLAN, variants=(*PLAN.variants, PLAN.variants[2]))
