"""Every stage of the recipe runs on a handful of pictures, from the files of the stages before it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sfmobile.errors import ArtifactError, UsageError
from sfmobile.nets.layout import TextEncoderLayout
from sfmobile.train.config import LoopConfig
from sfmobile.train.pictures import Pictures
from sfmobile.train.stages.autoencoder import AutoencoderConfig
from sfmobile.train.stages.decoder import DecoderConfig
from sfmobile.train.stages.denoiser import DenoiserConfig, DenoiserStage
from sfmobile.train.stages.run import LatentsConfig, Networks, Run
from sfmobile.train.stages.steps import StepConfig
from sfmobile.train.state import load_tensors
from tests.evaluate.tiny_sprites import sprite_pool
from tests.tiny import TINY_ASYMMETRIC_AUTOENCODER, TINY_AUTOENCODER, TINY_SNAPFUSION_UNET, TINY_UNET

TEXT_ENCODER = TextEncoderLayout(hidden=32, layers=1, heads=2, intermediate=64)
TEACHER = replace(TINY_UNET, name="teacher-layout", norm_groups=8)
STUDENT = replace(TINY_SNAPFUSION_UNET, name="student-layout", norm_groups=8)
NETWORKS = Networks(TEXT_ENCODER, (TEACHER, STUDENT), (TINY_AUTOENCODER, TINY_ASYMMETRIC_AUTOENCODER))
LOOP = LoopConfig(steps=3, batch_size=4, learning_rate=1e-3, warmup_steps=1, precision="no", log_every=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """The whole recipe in small."""
    made = Run(tmp_path_factory.mktemp("run"), NETWORKS, cpu=True)
    pictures = Pictures(sprite_pool(), 16)
    made.run_autoencoder(AutoencoderConfig(LOOP, "tiny", perceptual_weight=0.0), pictures, None)
    made.run_latents(LatentsConfig(count=20, layout="tiny", batch_size=10), pictures)
    made.run_denoiser("teacher", DenoiserConfig(LOOP, "teacher-layout"))
    made.run_denoiser(
        "efficient",
        DenoiserConfig(LOOP, "student-layout", unet_from="teacher", text_encoder_from="teacher", block_dropout=0.5),
    )
    made.run_decoder(
        "decoder", DecoderConfig(LOOP, "tiny-asymmetric", "tiny", latents=6, sampling_steps=2), perceptual=None
    )
    steps = StepConfig(LOOP, "teacher", "teacher", "teacher-layout", 16, teacher="teacher-layout")
    made.run_steps("steps-teacher", steps)
    made.run_steps(
        "steps", replace(steps, teacher_from="steps-teacher", student_from="efficient", student="student-layout",
                         student_steps=8, cfg_probability=0.5)
    )  # fmt: skip
    made.run_steps("conditioned", replace(steps, student_steps=8, guidance_conditioned=True))
    return made


def weights(run: Run, stage: str) -> dict[str, torch.Tensor]:
    return load_tensors(run.root / stage / "weights.safetensors")[0]


def test_every_stage_learns_its_own_networks_and_no_other(run):
    prefixes = {
        "autoencoder": {"encoder", "decoder"},
        "teacher": {"text_encoder", "unet"},
        "efficient": {"unet"},
        "decoder": {"student"},
        "steps-teacher": {"student"},
        "steps": {"student"},
    }
    for stage, expected in prefixes.items():
        stored = weights(run, stage)
        assert {name.split(".")[0] for name in stored} == expected, stage
        assert all(torch.isfinite(tensor).all() for tensor in stored.values()), stage


def test_latents_have_zero_mean_and_unit_deviation_per_channel(run):
    # The statistics come from other compositions than the pool's, a few hundred values a channel.
    latents = run.pool().latents.float().transpose(0, 1).flatten(1)
    assert latents.mean(dim=1).abs().max() < 0.5
    assert ((latents.std(dim=1) > 0.5) & (latents.std(dim=1) < 2.0)).all()


def test_the_efficient_unet_starts_from_the_teachers_blocks(run):
    student, teacher = run.unet("student-layout", "teacher"), run.unet("teacher-layout", "teacher")
    own, source = student.state_dict(), teacher.state_dict()
    assert torch.equal(own["down_blocks.0.resnets.0.conv1.weight"], source["down_blocks.0.resnets.0.conv1.weight"])
    # The up stage's ResNets agree from their end.
    assert torch.equal(own["up_blocks.0.resnets.1.conv2.weight"], source["up_blocks.0.resnets.1.conv2.weight"])


def test_a_run_goes_on_from_anothers_autoencoder_decoder_and_text_encoder(run, tmp_path):
    """As when pictures grow: the other run lies inside this one, and its stages go by both names."""
    (tmp_path / "small").symlink_to(run.root, target_is_directory=True)
    grown = Run(tmp_path, NETWORKS, cpu=True, text_encoder_from="small/teacher")
    still = replace(LOOP, learning_rate=0.0, ema_decay=0.0)
    start = AutoencoderConfig(still, "tiny", perceptual_weight=0.0, start_from="small/autoencoder")
    pictures = Pictures(sprite_pool(), 32)
    grown.run_autoencoder(start, pictures, None)
    for name, weight in weights(run, "autoencoder").items():
        # Latents are normalised anew, for these pictures; nothing else changes where nothing is learned.
        if "quant_conv" not in name:
            assert torch.equal(weights(grown, "autoencoder")[name], weight), name
    grown.run_latents(LatentsConfig(count=20, layout="tiny", batch_size=10), pictures)
    grown.run_denoiser(
        "teacher",
        DenoiserConfig(LOOP, "teacher-layout", unet_from="small/teacher", text_encoder_from="small/teacher"),
    )
    assert {name.split(".")[0] for name in weights(grown, "teacher")} == {"unet"}
    text_encoder = grown.denoiser("teacher")[1].state_dict()
    assert torch.equal(
        text_encoder["token_embedding.weight"], weights(run, "teacher")["text_encoder.token_embedding.weight"]
    )
    grown.run_decoder(
        "decoder",
        DecoderConfig(still, "tiny-asymmetric", "tiny", latents=6, sampling_steps=2, start_from="small/decoder"),
        perceptual=None,
    )
    for name, weight in weights(run, "decoder").items():
        assert torch.equal(weights(grown, "decoder")[name], weight), name


def test_a_guidance_conditioned_student_has_the_input_and_learned_it(run):
    assert weights(run, "conditioned")["student.time_embedding.cond_proj.weight"].abs().max() > 0


def test_each_stage_resumes_where_it_ended(run):
    before = weights(run, "teacher")
    run.run_denoiser("teacher", DenoiserConfig(LOOP, "teacher-layout"))
    after = weights(run, "teacher")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_blocks_are_dropped_with_the_set_probability_and_only_in_the_robust_part(run):
    config = DenoiserConfig(replace(LOOP, steps=100), "teacher-layout", block_dropout=0.3, robust_fraction=0.5)
    stage = DenoiserStage("x", config, _Objective(run), run.pool())
    gates = torch.stack([stage.inputs(index, 8, torch.device("cpu"))[4] for index in range(50)])
    assert abs(float(gates.mean()) - 0.7) < 0.03
    assert set(gates.unique().tolist()) == {0.0, 1.0}
    assert stage.inputs(60, 8, torch.device("cpu"))[4].min() == 1.0


def test_captions_are_dropped_with_the_set_probability(run):
    config = DenoiserConfig(LOOP, "teacher-layout", caption_dropout=0.25)
    stage = DenoiserStage("x", config, _Objective(run), run.pool())
    empty = run.pool().empty_ids.long()
    ids = torch.cat([stage.inputs(index, 20, torch.device("cpu"))[1] for index in range(40)])
    assert abs(float((ids == empty).all(dim=1).float().mean()) - 0.25) < 0.05


class _Objective(torch.nn.Module):
    def __init__(self, run: Run) -> None:
        super().__init__()
        self.unet = run.unet("teacher-layout", None)
        self.text_encoder = run.text_encoder(None)
        self.schedule = run.schedule("zero-terminal", TEACHER)


def test_an_unknown_layout_schedule_or_missing_stage_is_named(run, tmp_path):
    with pytest.raises(UsageError, match="Layout 'nope' is unknown; expected one of teacher-layout, student-layout"):
        run.unet("nope", None)
    with pytest.raises(UsageError, match="Noise schedule 'cosine' is unknown"):
        run.schedule("cosine", TEACHER)
    with pytest.raises(ArtifactError, match="expected the result of an earlier stage"):
        Run(tmp_path, NETWORKS, cpu=True).unet("teacher-layout", "teacher")
    with pytest.raises(UsageError, match="another stage has them"):
        run.weights("efficient", "text_encoder.")
