"""Every stage of a plan runs on a handful of pictures, from the files of the stages before it, and says what it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sfmobile.errors import ArtifactError, UsageError
from sfmobile.nets.layout import TextEncoderLayout
from sfmobile.train.config import LoopConfig
from sfmobile.train.diffusion import NoiseSchedule
from sfmobile.train.glyph import SCHEDULES
from sfmobile.train.pictures import Pictures
from sfmobile.train.run import Networks, Run
from sfmobile.train.stage import StageConfig, Workplace
from sfmobile.train.stages.autoencoder import AutoencoderConfig
from sfmobile.train.stages.decoder import DecoderConfig
from sfmobile.train.stages.denoiser import DenoiserConfig, DenoiserTraining
from sfmobile.train.stages.latents import LatentsConfig
from sfmobile.train.stages.steps import GUIDANCE_CHANNELS, StepConfig
from sfmobile.train.state import load_tensors
from tests.evaluate.tiny_sprites import sprite_pool
from tests.tiny import TINY_ASYMMETRIC_AUTOENCODER, TINY_AUTOENCODER, TINY_SNAPFUSION_UNET, TINY_UNET

TEXT_ENCODER = TextEncoderLayout(hidden=32, layers=1, heads=2, intermediate=64)
TEACHER = replace(TINY_UNET, name="teacher-layout", norm_groups=8)
STUDENT = replace(TINY_SNAPFUSION_UNET, name="student-layout", norm_groups=8)
NETWORKS = Networks(TEXT_ENCODER, (TEACHER, STUDENT), (TINY_AUTOENCODER, TINY_ASYMMETRIC_AUTOENCODER))
LOOP = LoopConfig(steps=3, batch_size=4, learning_rate=1e-3, warmup_steps=1, precision="no", log_every=1)
STEPS = StepConfig(LOOP, "teacher", "teacher", "teacher-layout", 16, teacher="teacher-layout")


def carry_out(run: Run, name: str, config: StageConfig, side: int = 16) -> None:
    """Run one stage on the test's sprites, without a perceptual loss."""
    pictures = Pictures(sprite_pool(), side)
    config.run(name, Workplace(run, lambda _: pictures, lambda: pytest.fail("no perceptual loss"), lambda: None))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A whole plan in small."""
    made = Run(tmp_path_factory.mktemp("run"), NETWORKS, cpu=True)
    stages: dict[str, StageConfig] = {
        "autoencoder": AutoencoderConfig(LOOP, "tiny", perceptual_weight=0.0),
        "latents": LatentsConfig(count=20, layout="tiny", batch_size=10),
        "teacher": DenoiserConfig(LOOP, "teacher-layout"),
        "efficient": DenoiserConfig(
            LOOP, "student-layout", unet_from="teacher", text_encoder_from="teacher", block_dropout=0.5
        ),
        "decoder": DecoderConfig(LOOP, "tiny-asymmetric", "tiny", latents=6, sampling_steps=2),
        "steps-teacher": STEPS,
        "steps": replace(
            STEPS,
            teacher_from="steps-teacher",
            student_from="efficient",
            student="student-layout",
            student_steps=8,
            cfg_probability=0.5,
        ),
        "conditioned": replace(STEPS, student_steps=8, guidance_conditioned=True),
        "standard": DenoiserConfig(replace(LOOP, steps=1), "teacher-layout", schedule="standard"),
    }
    for name, config in stages.items():
        assert all((made.root / source).is_dir() for source in config.sources()), name
        carry_out(made, name, config)
    return made


def weights(run: Run, stage: str) -> dict[str, torch.Tensor]:
    return load_tensors(run.root / stage / "weights.safetensors")[0]


def test_every_stage_learns_its_own_networks_and_no_other(run):
    prefixes = {
        "autoencoder": {"encoder", "decoder"},
        "teacher": {"text_encoder", "unet"},
        "efficient": {"unet"},
        "decoder": {"decoder"},
        "steps-teacher": {"unet"},
        "steps": {"unet"},
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
    student, teacher = run.new_unet(STUDENT, "teacher"), run.trained_unet("teacher")
    own, source = student.state_dict(), teacher.state_dict()
    assert torch.equal(own["down_blocks.0.resnets.0.conv1.weight"], source["down_blocks.0.resnets.0.conv1.weight"])
    # The up stage's ResNets agree from their end.
    assert torch.equal(own["up_blocks.0.resnets.1.conv2.weight"], source["up_blocks.0.resnets.1.conv2.weight"])


def test_a_run_goes_on_from_anothers_autoencoder_decoder_and_text_encoder(run, tmp_path):
    """As when pictures grow: the other run lies inside this one, and its stages go by both names."""
    (tmp_path / "small").symlink_to(run.root, target_is_directory=True)
    grown = Run(tmp_path, NETWORKS, cpu=True)
    still = replace(LOOP, learning_rate=0.0, ema_decay=0.0)
    start = AutoencoderConfig(still, "tiny", perceptual_weight=0.0, start_from="small/autoencoder")
    carry_out(grown, "autoencoder", start, 32)
    for name, weight in weights(run, "autoencoder").items():
        # Latents are normalised anew, for these pictures; nothing else changes where nothing is learned.
        if "quant_conv" not in name:
            assert torch.equal(weights(grown, "autoencoder")[name], weight), name
    carry_out(grown, "latents", LatentsConfig(count=20, layout="tiny", batch_size=10), 32)
    teacher = DenoiserConfig(LOOP, "teacher-layout", unet_from="small/teacher", text_encoder_from="small/teacher")
    carry_out(grown, "teacher", teacher)
    assert {name.split(".")[0] for name in weights(grown, "teacher")} == {"unet"}
    text_encoder = grown.denoiser("teacher").text_encoder.state_dict()
    assert torch.equal(
        text_encoder["token_embedding.weight"], weights(run, "teacher")["text_encoder.token_embedding.weight"]
    )
    # The other run's own stages name theirs as that run does.
    assert grown.text_encoder_of("small/steps") == "small/teacher"
    decoder = DecoderConfig(still, "tiny-asymmetric", "tiny", latents=6, sampling_steps=2, start_from="small/decoder")
    carry_out(grown, "decoder", decoder)
    for name, weight in weights(run, "decoder").items():
        assert torch.equal(weights(grown, "decoder")[name], weight), name


def test_a_guidance_conditioned_student_has_the_input_and_learned_it(run):
    assert weights(run, "conditioned")["unet.time_embedding.cond_proj.weight"].abs().max() > 0


def test_each_stage_resumes_where_it_ended(run):
    before = weights(run, "teacher")
    carry_out(run, "teacher", DenoiserConfig(LOOP, "teacher-layout"))
    after = weights(run, "teacher")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_blocks_are_dropped_with_the_set_probability_and_only_in_the_robust_part(run):
    config = DenoiserConfig(replace(LOOP, steps=100), "teacher-layout", block_dropout=0.3, robust_fraction=0.5)
    stage = DenoiserTraining("x", config, _Objective(run), run.pool())
    gates = torch.stack([stage.inputs(index, 8, torch.device("cpu"))[4] for index in range(50)])
    assert abs(float(gates.mean()) - 0.7) < 0.03
    assert set(gates.unique().tolist()) == {0.0, 1.0}
    assert stage.inputs(60, 8, torch.device("cpu"))[4].min() == 1.0


def test_captions_are_dropped_with_the_set_probability(run):
    config = DenoiserConfig(LOOP, "teacher-layout", caption_dropout=0.25)
    stage = DenoiserTraining("x", config, _Objective(run), run.pool())
    empty = run.pool().empty_ids.long()
    ids = torch.cat([stage.inputs(index, 20, torch.device("cpu"))[1] for index in range(40)])
    assert abs(float((ids == empty).all(dim=1).float().mean()) - 0.25) < 0.05


class _Objective(torch.nn.Module):
    def __init__(self, run: Run) -> None:
        super().__init__()
        self.unet = run.new_unet(TEACHER, None)
        self.text_encoder = run.new_text_encoder(None)
        self.schedule = NoiseSchedule(SCHEDULES["zero-terminal"], TEACHER.down[0].channels)


def test_an_unknown_layout_schedule_or_missing_stage_is_named(run, tmp_path):
    with pytest.raises(UsageError, match="Layout 'nope' is unknown; expected one of teacher-layout, student-layout"):
        run.unet_layout("nope")
    with pytest.raises(UsageError, match="Noise schedule 'cosine' is unknown; expected one of standard, zero-terminal"):
        carry_out(run, "x", DenoiserConfig(LOOP, "teacher-layout", schedule="cosine"))
    with pytest.raises(ArtifactError, match="expected the result of an earlier stage"):
        Run(tmp_path, NETWORKS, cpu=True).trained_unet("teacher")
    with pytest.raises(UsageError, match="found one of kind 'denoiser' without; another stage has them"):
        run.text_encoder("efficient")
    with pytest.raises(UsageError, match="another stage has them"):
        run.weights("efficient", "text_encoder")


def test_every_stage_says_what_it_left(run):
    kinds = {name: run.record(name).kind for name in ("autoencoder", "latents", "teacher", "decoder", "steps")}
    assert kinds == {
        "autoencoder": "autoencoder",
        "latents": "latents",
        "teacher": "denoiser",
        "decoder": "decoder",
        "steps": "steps",
    }
    assert run.unet_record("teacher").layout == TEACHER
    assert run.unet_record("steps").layout == STUDENT
    assert run.unet_record("conditioned").layout == replace(TEACHER, guidance_embedding_dim=GUIDANCE_CHANNELS)
    assert (
        run.unet_record("steps").text_encoder_from == "teacher" and run.unet_record("teacher").text_encoder_from is None
    )
    assert run.record("teacher").text_encoder == TEXT_ENCODER and run.record("steps").text_encoder is None
    assert run.record("decoder").decoder == replace(TINY_ASYMMETRIC_AUTOENCODER, scaling_factor=1.0)
    # The encoder's own weights give unit latents, whatever factor its layout has in general.
    assert run.record("autoencoder").encoder == replace(TINY_AUTOENCODER, scaling_factor=1.0)
    latents = run.pool_record()
    assert (latents.channels, latents.height, latents.width, latents.pixels_per_latent) == (4, 8, 8, 2)
    assert latents.scaling_factor == 1.0
    assert run.unet_record("steps").latents == latents


def test_a_stage_is_sampled_on_the_schedule_it_was_trained_on(run):
    """Not on one that its files don't tell of: the pictures would be wrong, and nothing would say so."""
    for name, schedule in (("teacher", "zero-terminal"), ("standard", "standard")):
        model = run.denoiser(name)
        assert model.schedule.scheduler == SCHEDULES[schedule]
        expected = NoiseSchedule(SCHEDULES[schedule], TEACHER.down[0].channels)
        assert torch.equal(model.schedule.alphas, expected.alphas)


def test_a_teacher_of_another_schedule_or_layout_is_refused(run):
    with pytest.raises(UsageError, match="its teacher 'standard' was trained on another noise schedule"):
        carry_out(run, "x", replace(STEPS, teacher_from="standard"))
    with pytest.raises(UsageError, match="expected a UNet of layout 'student-layout', found 'teacher-layout'"):
        carry_out(run, "x", replace(STEPS, teacher="student-layout"))
    with pytest.raises(UsageError, match="found 'teacher-layout' with guidance as an input"):
        carry_out(run, "x", replace(STEPS, teacher_from="conditioned"))
    with pytest.raises(UsageError, match="has guidance as an input, so it can't start 'student-layout' without"):
        carry_out(run, "x", replace(STEPS, student_from="conditioned", student="student-layout"))
    with pytest.raises(UsageError, match="expected the decoder of layout 'tiny-asymmetric', found that of 'tiny'"):
        carry_out(run, "decoder", DecoderConfig(LOOP, "tiny", "tiny-asymmetric", latents=6, sampling_steps=2))
    assert not (run.root / "x").exists()


def test_layouts_that_differ_in_nothing_but_their_heads_are_told_apart(run):
    """Weights of one are shaped as the other's, and mean something else."""
    other = replace(TEACHER, name="other-heads", heads=(4, 8))
    opened = Run(run.root, replace(NETWORKS, unets=(other,)), cpu=True)
    assert opened.trained_unet("teacher").layout == TEACHER
    with pytest.raises(UsageError, match="expected a UNet of layout 'other-heads', found 'teacher-layout'"):
        opened.trained_unet("teacher", "other-heads")


def test_a_conditioned_students_latents_are_sampled_with_guidance_as_its_input(run):
    calls = []
    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: calls.append(len(inputs[0])) if type(module).__name__ == "UNet" else None
    )
    config = DecoderConfig(LOOP, "tiny-asymmetric", "tiny", "conditioned", latents=6, sampling_steps=2)
    try:
        carry_out(run, "of-conditioned", config)
    finally:
        handle.remove()
    assert calls == [6, 6]
