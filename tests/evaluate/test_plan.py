from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from sfmobile.bundle.samplers import DDIMRecord
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.evaluate.evaluation import Evaluation, EvaluationConfig
from sfmobile.evaluate.plan import RECORD, EvaluationPlan, measure_throughput, run_plan
from sfmobile.evaluate.report import EvaluationRecord
from sfmobile.evaluate.run_samplers import RunSamplers, Variant
from sfmobile.evaluate.targets import QualityTarget
from sfmobile.nets.autoencoder import Decoder, Encoder
from sfmobile.nets.text_encoder import TextEncoder
from sfmobile.nets.unet import UNet
from sfmobile.train.config import read_config
from sfmobile.train.diffusion import NoiseSchedule
from sfmobile.train.glyph import STANDARD_SCHEDULE, ZERO_TERMINAL_SCHEDULE
from sfmobile.train.network_sampler import network_sampler
from sfmobile.train.plan import TrainingPlan
from sfmobile.train.run import Run
from sfmobile.train.stages.steps import GUIDANCE_CHANNELS
from sfmobile.train.state import load_tensors, save_tensors
from tests.evaluate.test_evaluation import judges
from tests.evaluate.tiny_sprites import encode, sprite_pool
from tests.tiny import REPOSITORY, TINY_AUTOENCODER, TINY_TEXT_ENCODER, TINY_UNET
from tests.train.stage_files import LATENTS, write_stage

SIDE = 16
HALF = replace(TINY_AUTOENCODER, name="half", decoder_channels=(8, 16))
CONDITIONED = replace(TINY_UNET, guidance_embedding_dim=GUIDANCE_CHANNELS)
PLAN = EvaluationPlan(
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
    targets=(QualityTarget("told", "agreement", "student", at_least=-1.0),),
    notes=("Nothing but shapes.",),
)


def words(captions: Sequence[str]) -> torch.Tensor:
    """Token ids that the tiny text encoder knows."""
    return encode(captions).remainder(TINY_TEXT_ENCODER.vocabulary)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    torch.manual_seed(0)
    root = tmp_path / "run"
    write_stage(root, "autoencoder", encoder=Encoder(TINY_AUTOENCODER), decoder=Decoder(TINY_AUTOENCODER))
    write_stage(root, "teacher", unet=UNet(TINY_UNET), text_encoder=TextEncoder(TINY_TEXT_ENCODER))
    write_stage(root, "steps-1", unet=UNet(TINY_UNET), text_encoder_from="teacher")
    write_stage(root, "decoder", decoder=Decoder(HALF))
    write_stage(root, "steps-conditioned", unet=UNet(CONDITIONED), text_encoder_from="teacher")
    return Run(root, cpu=True)


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    small = replace(judges(), encode=words)
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
    assert EvaluationRecord.read(out / RECORD) == record
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
    write_stage(run.root, "steps-1", unet=UNet(TINY_UNET), text_encoder_from="teacher")
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
    write_stage(run.root, "decoder", decoder=Decoder(HALF))
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
    unet = run.denoiser("steps-conditioned").unet
    assert unet.layout.guidance_embedding_dim == GUIDANCE_CHANNELS
    with torch.no_grad():
        unet.time_embedding.cond_proj.weight.normal_(std=0.3)
    write_stage(run.root, "steps-conditioned", unet=unet, text_encoder_from="teacher")
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
    write_stage(run.root, "early", unet=UNet(TINY_UNET), text_encoder=own)

    def embedding(stage: str) -> torch.Tensor:
        return run.denoiser(stage).text_encoder.token_embedding.weight

    assert torch.equal(embedding("early"), own.token_embedding.weight)
    assert torch.equal(embedding("steps-1"), embedding("teacher"))
    assert not torch.equal(embedding("early"), embedding("teacher"))


def test_a_stage_is_sampled_on_its_own_schedule_at_the_scale_of_its_own_latents(run: Run) -> None:
    """Two stages of the same weights: what they were trained on, and nothing else, tells how to sample them."""
    torch.manual_seed(3)
    unet, text_encoder = UNet(TINY_UNET), TextEncoder(TINY_TEXT_ENCODER)
    scaled = LATENTS.model_copy(update={"scaling_factor": 0.5})
    for name, schedule, latents in (
        ("zero-terminal", ZERO_TERMINAL_SCHEDULE, LATENTS),
        ("standard", STANDARD_SCHEDULE, LATENTS),
        ("scaled", ZERO_TERMINAL_SCHEDULE, scaled),
    ):
        write_stage(run.root, name, unet=unet, text_encoder=text_encoder, schedule=schedule, latents=latents)
    samplers = RunSamplers(run, words, SIDE)

    def drawn(stage: str, record: DDIMRecord, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """The stage's picture, and that of the same networks put together by hand."""
        by_hand = network_sampler(
            text_encoder.eval(),
            unet.eval(),
            samplers.decoder("autoencoder"),
            NoiseSchedule(record, TINY_UNET.down[0].channels),
            words,
            steps=2,
            guidance_scale=2.0,
            latent_shape=(4, 8, 8),
            scaling_factor=scale,
        )
        return samplers.sampler(Variant("v", stage, 2, 2.0))(["a fox"], [1]), by_hand(["a fox"], [1])

    pictures = []
    for stage, record, scale in (
        ("zero-terminal", ZERO_TERMINAL_SCHEDULE, 1.0),
        ("standard", STANDARD_SCHEDULE, 1.0),
        ("scaled", ZERO_TERMINAL_SCHEDULE, 0.5),
    ):
        made, expected = drawn(stage, record, scale)
        assert torch.equal(made, expected), stage
        pictures.append(made)
    assert not torch.equal(pictures[0], pictures[1]) and not torch.equal(pictures[0], pictures[2])
    latents, scaled_down = (
        samplers.latents(Variant("v", stage, 2, 2.0), ["a fox"]) for stage in ("zero-terminal", "scaled")
    )
    torch.testing.assert_close(scaled_down, 2 * latents)


def test_weights_of_an_older_version_name_what_writes_them_anew(
    run: Run, evaluation: Evaluation, tmp_path: Path
) -> None:
    path = run.root / "steps-1" / "weights.safetensors"
    save_tensors(path, load_tensors(path)[0])
    with pytest.raises(ArtifactError, match=r"steps-1/weights\.safetensors' doesn't say which networks .* once more"):
        run_plan(PLAN, run, evaluation, tmp_path / "out")


@pytest.mark.parametrize("name", ["glyph-128", "glyph-128-large", "glyph-64"])
def test_an_evaluation_names_stages_and_pictures_of_its_plan(name: str) -> None:
    directory = REPOSITORY / "models" / "recipes" / name
    plan = read_config(EvaluationPlan, directory / "evaluation.json")
    stages = TrainingPlan.read(directory)
    names = {variant.name for variant in plan.variants} | {"Decoder pair"}
    assert {name for target in plan.targets for name in (target.of, target.than) if name is not None} <= names
    if name != "glyph-128-large":
        for variant in plan.variants:
            assert stages.stage(variant.stage).kind in ("denoiser", "steps")
            assert stages.stage(variant.decoder).kind in ("autoencoder", "decoder")
    assert (directory / f"{plan.pictures}.json").exists()
    assert {"guidance", "steps"} == {variant.varies for variant in plan.variants if variant.series}


def test_two_variants_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="two variants called 'absent'"):
        replace(PLAN, variants=(*PLAN.variants, PLAN.variants[2]))
