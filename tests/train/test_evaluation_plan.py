from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sfmobile.errors import UsageError
from sfmobile.nets.autoencoder import Decoder, Encoder
from sfmobile.nets.text_encoder import TextEncoder
from sfmobile.nets.unet import UNet
from sfmobile.train.config import read_config
from sfmobile.train.evaluate import Evaluation, EvaluationConfig
from sfmobile.train.evaluation_plan import RECORD, Plan, Variant, run_plan
from sfmobile.train.metrics.report import Record
from sfmobile.train.stages import Networks, Run
from tests.tiny import REPOSITORY, TINY_AUTOENCODER, TINY_TEXT_ENCODER, TINY_UNET
from tests.train.metrics.tiny_sprites import encode, sprite_pool
from tests.train.test_evaluate import judges

SIDE = 16
HALF = replace(TINY_AUTOENCODER, name="half", decoder_channels=(8, 16))
NETWORKS = Networks(TINY_TEXT_ENCODER, (TINY_UNET,), (TINY_AUTOENCODER, HALF))
PLAN = Plan(
    variants=(
        Variant("teacher, 2 steps", "teacher", 2, 2.0, grid=True),
        Variant("student", "steps-1", 1, 2.0, decoder="decoder", parts=("distribution", "recognition"), grid=True),
        Variant("absent", "steps-vanilla", 1, 2.0),
    ),
    evaluation=EvaluationConfig(pictures=12, composed=2, memorised=4, training=6, batch=8),
    grid_captions=("a fox", "a red boat"),
    own_latents=6,
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
        "teacher, 2 steps",
        "student",
    ]
    assert any("absent: left out, stage 'steps-vanilla' has no weights" in line for line in said)
    teacher, student = record.measurements[1:]
    assert teacher.settings == {"stage": "teacher", "steps": 2, "guidance": 2.0, "decoder": "autoencoder"}
    assert "agreement" in teacher.figures
    assert any(name.startswith("recognised") for name in student.figures)
    assert record.extra["Decoder pair"]["macs_ratio"] > 2
    assert Record.read(out / RECORD) == record
    assert "student" in (out / "evaluation.md").read_text()
    with Image.open(out / "grid.png") as grid:
        assert grid.height > 2 * SIDE

    again = run_plan(PLAN, run, evaluation, out, said.append)
    assert again.measurements == record.measurements
    assert sum("teacher, 2 steps:" in line for line in said) == 1


def test_a_decoder_of_no_known_layout_is_named(run: Run, evaluation: Evaluation, tmp_path: Path) -> None:
    run.networks = replace(NETWORKS, autoencoders=(TINY_AUTOENCODER,))
    with pytest.raises(UsageError, match="its decoder fits none of the known layouts"):
        run_plan(PLAN, run, evaluation, tmp_path / "out")


def test_the_recipes_plan_is_read() -> None:
    plan = read_config(Plan, REPOSITORY / "models" / "recipes" / "glyph-128" / "evaluation.json")
    assert {"guidance", "steps"} == {variant.series.split(":")[0] for variant in plan.variants if variant.series}


def test_two_variants_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="two variants called 'absent'"):
        replace(PLAN, variants=(*PLAN.variants, PLAN.variants[2]))
