"""A plan's stages run by command, one after another, into a checkpoint; runs of older versions are taken up."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.train import pictures, plan, stages
from sfmobile.train.glyph import STANDARD_SCHEDULE
from sfmobile.train.loop import STATE
from sfmobile.train.record import POOL, WEIGHTS
from sfmobile.train.run import Run
from sfmobile.train.state import load_tensors, save_tensors
from tests.cli.run import Outcome, run
from tests.evaluate.tiny_sprites import sprite_pool
from tests.train.stages.test_stages import LOOP, NETWORKS

TRAINED = ("autoencoder", "teacher", "decoder", "steps")
STAGES = {
    "autoencoder": ("autoencoder", {"layout": "tiny", "perceptual_weight": 0.0}),
    "latents": ("latents", {"count": 12, "layout": "tiny", "batch_size": 6}),
    "teacher": ("denoiser", {"unet": "teacher-layout", "schedule": "standard"}),
    "decoder": (
        "decoder",
        {"layout": "tiny-asymmetric", "teacher_layout": "tiny", "latents": 4, "sampling_steps": 2},
    ),
    "steps": (
        "steps",
        {
            "teacher_from": "teacher",
            "student_from": "teacher",
            "student": "teacher-layout",
            "student_steps": 8,
            "teacher": "teacher-layout",
            "schedule": "standard",
        },
    ),
}


class Scene:
    """A plan of small networks in a folder, a run, and the commands over them."""

    def __init__(self, root: Path, run_directory: Path) -> None:
        self.plan, self.run = root / "plan", run_directory
        self.plan.mkdir()
        loop = asdict(replace(LOOP, steps=2))
        for name, (kind, settings) in STAGES.items():
            own = settings if kind == "latents" else {"loop": loop, **settings}
            (self.plan / f"{name}.json").write_text(json.dumps(own))
        (self.plan / "pictures.json").write_text('{"side": 16}')
        self.write()

    def write(self, checkpoint: dict[str, object] | None = None, **changes: object) -> None:
        """recipe.json, with some things changed."""
        made = {"unet": "teacher-layout", "unet_from": "steps", "autoencoder": "tiny-asymmetric"}
        content = {
            "name": "small",
            "text_encoder": "glyph-64",
            "stages": [{"name": name, "kind": kind} for name, (kind, _) in STAGES.items()],
            "checkpoint": {**made, "decoder_from": "decoder", **(checkpoint or {})},
            "token_initialisation": False,
        }
        (self.plan / "recipe.json").write_text(json.dumps({**content, **changes}))

    def train(self, capsys: pytest.CaptureFixture[str], command: str, *more: object, cpu: bool = True) -> Outcome:
        options = ("--cpu",) if cpu else ()
        return run(capsys, "train", command, self.plan, *more, "--run", self.run, *options)

    def assemble(self, capsys: pytest.CaptureFixture[str], output: Path) -> Outcome:
        return self.train(capsys, "assemble", "-o", output, cpu=False)

    def weights(self) -> dict[str, dict[str, torch.Tensor]]:
        return {name: load_tensors(self.run / name / WEIGHTS)[0] for name in TRAINED}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "Networks", lambda **_: NETWORKS)
    made = pictures.Pictures(sprite_pool(), 16)
    monkeypatch.setattr(pictures.Pictures, "open", classmethod(lambda *_: made))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that runs leaves its run, for the others."""
    return tmp_path_factory.mktemp("trained") / "run"


@pytest.fixture
def scene(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Scene:
    """A finished run of the plan."""
    if not trained.exists():
        first = Scene(tmp_path, trained)
        outcome = first.train(capsys, "all")
        assert outcome.code == 0, outcome.err
        assert all(f"{name} is done: " in outcome.err for name in STAGES)
        shutil.rmtree(first.plan)
    shutil.copytree(trained, tmp_path / "run")
    return Scene(tmp_path, tmp_path / "run")


def test_a_finished_run_is_done_already_and_becomes_a_checkpoint(scene: Scene, tmp_path: Path, capsys) -> None:
    again = scene.train(capsys, "all")
    assert again.code == 0 and all(f"{name} is done already" in again.err for name in STAGES)
    outcome = scene.assemble(capsys, tmp_path / "checkpoint")
    assert outcome.code == 0, outcome.err
    made = Checkpoint.open(tmp_path / "checkpoint")
    # What the stages were trained with, though the plan doesn't say it again.
    assert made.sampler == STANDARD_SCHEDULE
    assert made.latent_size == (8, 8) and made.autoencoder_layout.scaling_factor == 1.0
    student = load_tensors(scene.run / "steps" / WEIGHTS, "unet.")[0]
    for name, weight in made.load("unet").state_dict().items():
        torch.testing.assert_close(weight, student[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        ({"schedule": "zero-terminal"}, "expected the noise schedule that the UNet of 'steps' was trained on"),
        ({"text_encoder_from": "steps"}, "expected the text encoder of 'teacher', which the UNet of 'steps'"),
        ({"unet": "student-layout"}, "expected a UNet of layout 'student-layout', found 'teacher-layout'"),
        ({"autoencoder": "tiny"}, "expected the decoder of layout 'tiny', found that of 'tiny-asymmetric'"),
    ],
)
def test_a_checkpoint_is_not_made_of_what_the_stages_werent_trained_with(
    checkpoint: dict[str, object], words: str, scene: Scene, tmp_path: Path, capsys
) -> None:
    scene.write(checkpoint)
    outcome = scene.assemble(capsys, tmp_path / "checkpoint")
    assert outcome.code == 2 and words in outcome.sentence
    assert not (tmp_path / "checkpoint").exists()


def age(run_directory: Path) -> None:
    """Make a run what a version before would have left: no records, checkpoints in two files, other names."""
    for result in (*run_directory.glob(f"*/{WEIGHTS}"), *run_directory.glob(f"*/{POOL}")):
        tensors, _ = load_tensors(result)
        student = {"decoder": "decoder.", "steps": "unet."}.get(result.parent.name)
        if student is not None:
            tensors = {f"student.{name.removeprefix(student)}": value for name, value in tensors.items()}
        save_tensors(result, tensors)
    for state in run_directory.glob(f"*/{STATE}"):
        tensors, metadata = load_tensors(state)
        save_tensors(state, tensors)
        (state.parent / "state.json").write_text(metadata["state"])


def test_a_run_of_an_older_version_is_written_anew_without_a_step(scene: Scene, tmp_path: Path, capsys) -> None:
    before, logs = scene.weights(), {name: (scene.run / name / "log.jsonl").read_bytes() for name in TRAINED}
    age(scene.run)
    outcome = scene.assemble(capsys, tmp_path / "checkpoint")
    assert outcome.code == 4
    assert f"steps/{WEIGHTS}' doesn't say which networks it holds" in outcome.sentence
    assert "run the stage once more with `sfmobile train all`" in outcome.sentence
    outcome = scene.train(capsys, "all")
    assert outcome.code == 0, outcome.err
    for stage, weights in scene.weights().items():
        assert all(torch.equal(weights[name], value) for name, value in before[stage].items()), stage
        assert (scene.run / stage / "log.jsonl").read_bytes() == logs[stage]
    assert scene.assemble(capsys, tmp_path / "checkpoint").code == 0


def test_older_weights_without_their_checkpoint_are_not_trained_over(scene: Scene, capsys) -> None:
    age(scene.run)
    kept = (scene.run / "autoencoder" / WEIGHTS).read_bytes()
    (scene.run / "autoencoder" / STATE).unlink()
    for command in (("all",), ("stage", "autoencoder")):
        outcome = scene.train(capsys, *command)
        assert outcome.code == 4 and "no record of its networks, and no state.safetensors" in outcome.sentence
    assert (scene.run / "autoencoder" / WEIGHTS).read_bytes() == kept


def test_a_stage_says_first_what_it_starts_from(scene: Scene, capsys) -> None:
    shutil.rmtree(scene.run / "teacher")
    outcome = scene.train(capsys, "stage", "steps")
    assert outcome.code == 4 and "expected the result of an earlier stage" in outcome.sentence
    outcome = scene.train(capsys, "stage", "stepz")
    assert outcome.code == 2 and "Plan 'small' has no stage 'stepz'; it has autoencoder, latents" in outcome.sentence


def test_a_kind_that_is_unknown_is_named_with_those_there_are(scene: Scene, capsys) -> None:
    scene.write(stages=[{"name": "a", "kind": "autoencoda"}])
    outcome = scene.train(capsys, "all")
    assert outcome.code == 2
    assert "Stage 'a': kind 'autoencoda' is unknown" in outcome.sentence
    assert "expected one of autoencoder, decoder, denoiser, latents, steps" in outcome.sentence


NEW_KIND = '''
from dataclasses import dataclass
from sfmobile.train.record import StageRecord
from sfmobile.train.stage import StageConfig

@dataclass(frozen=True)
class MeanConfig(StageConfig, kind="mean"):
    """Both of two stages' decoders, averaged."""
    one: str
    other: str

    def sources(self):
        return self.one, self.other

    def run(self, name, place):
        one, other = (place.run.decoder(stage) for stage in self.sources())
        mean = {f"decoder.{k}": (v + other.state_dict()[k]) / 2 for k, v in one.state_dict().items()}
        place.run.leave(name, mean, StageRecord(kind=self.kind, decoder=one.layout))
'''


def test_a_new_kind_of_stage_is_one_file(scene: Scene, tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds" / "mean.py").write_text(NEW_KIND)
    monkeypatch.setattr(stages, "__path__", [*stages.__path__, str(tmp_path / "kinds")])
    monkeypatch.delitem(sys.modules, "sfmobile.train.stages.mean", raising=False)
    monkeypatch.setattr("sfmobile.train.stage.StageConfig.kinds", dict(stages.stage_kinds()))
    entries = [{"name": name, "kind": kind} for name, (kind, _) in STAGES.items()]
    scene.write(stages=[*entries, {"name": "mean", "kind": "mean"}])
    (scene.plan / "mean.json").write_text('{"one": "decoder", "other": "decoder"}')
    outcome = scene.train(capsys, "all")
    assert outcome.code == 0, outcome.err
    opened = Run(scene.run, NETWORKS, cpu=True)
    assert opened.record("mean").kind == "mean"
    for name, weight in opened.decoder("mean").state_dict().items():
        assert torch.equal(weight, opened.decoder("decoder").state_dict()[name])
