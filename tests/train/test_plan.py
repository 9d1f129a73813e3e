from __future__ import annotations

import json
from pathlib import Path

import pytest

from sfmobile.errors import UsageError
from sfmobile.nets.layout import AUTOENCODER_LAYOUTS, UNET_LAYOUTS
from sfmobile.train.config import read_config
from sfmobile.train.pictures import PicturesConfig
from sfmobile.train.plan import PlanRun, TrainingPlan
from sfmobile.train.stages import stage_kinds
from sfmobile.train.stages.latents import LatentsConfig
from sfmobile.train.stages.steps import StepConfig
from tests.tiny import REPOSITORY

PLANS = REPOSITORY / "models" / "recipes"


@pytest.mark.parametrize("name", sorted(path.parent.name for path in PLANS.glob("*/recipe.json")))
def test_every_stage_has_valid_settings_and_starts_from_stages_before_it(name: str) -> None:
    directory = PLANS / name
    plan = TrainingPlan.read(directory)
    assert plan.name == name
    read_config(PicturesConfig, directory / "pictures.json")
    done: set[str] = set()
    for entry in (*plan.stages, *plan.ablations):
        config = read_config(stage_kinds()[entry.kind], directory / f"{entry.name}.json")
        named = config.sources()
        assert all(source in done or is_of_the_plan_it_grows_from(plan, source) for source in named), (
            entry.name,
            named,
        )
        if isinstance(config, LatentsConfig):
            read_config(PicturesConfig, directory / f"{config.pictures}.json")
            assert config.layout in AUTOENCODER_LAYOUTS
        if isinstance(config, StepConfig):
            assert {config.teacher, config.student} <= set(UNET_LAYOUTS)
        done.add(entry.name)
    last = plan.checkpoint
    for source in (last.unet_from, last.text_encoder_from, last.encoder_from, last.decoder_from):
        assert source is None or source in done or is_of_the_plan_it_grows_from(plan, source), source


def is_of_the_plan_it_grows_from(plan: TrainingPlan, source: str) -> bool:
    other, _, stage = source.partition("/")
    return other == plan.grows_from and TrainingPlan.read(PLANS / other).stage(stage).name == stage


def test_the_run_that_a_plan_grows_from_is_asked_for(tmp_path: Path) -> None:
    opened = PlanRun(PLANS / "glyph-128", tmp_path / "run", tmp_path / "cache", cpu=True)
    with pytest.raises(UsageError, match=r"goes on from a run of 'glyph-64', found none there; .* --run .*/glyph-64\."):
        opened.run_stage("autoencoder")
    assert not (tmp_path / "run").exists()


def test_an_ablation_is_found_by_name_and_is_no_stage_of_the_plan() -> None:
    plan = TrainingPlan.read(PLANS / "glyph-64")
    assert plan.stage("steps-8-vanilla").kind == "steps"
    assert "steps-8-vanilla" not in {entry.name for entry in plan.stages}
    with pytest.raises(UsageError, match=r"no stage 'steps-9'; it has autoencoder, .*steps-8-progressive"):
        plan.stage("steps-9")


def changes(one: Path, other: Path) -> set[str]:
    first, second = json.loads(one.read_text()), json.loads(other.read_text())
    return {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}


def test_ablations_differ_in_what_they_are_named_for_and_in_nothing_else() -> None:
    directory = PLANS / "glyph-64"
    expected = {
        "vanilla": {"cfg_probability"},
        "cfg": {"cfg_probability"},
        "p03": {"cfg_probability"},
        "range-6": {"guidance_range"},
        "conditioned": {"cfg_probability", "guidance_conditioned"},
        "progressive": {"teacher", "teacher_from", "student_from"},
    }
    mixed = directory / "steps-8-mixed.json"
    for name, what in expected.items():
        assert changes(mixed, directory / f"steps-8-{name}.json") == what, name
    # The student that is shipped began like them and went on for longer.
    assert changes(mixed, directory / "steps-8-start.json") == {"loop"}


def test_direct_and_progressive_students_are_trained_for_equally_many_steps() -> None:
    def steps(*names: str) -> int:
        configs = [read_config(StepConfig, PLANS / "glyph-64" / f"{name}.json") for name in names]
        return sum(config.loop.steps * config.loop.batch_size for config in configs)

    direct = steps("steps-16", "steps-8-mixed")
    assert direct == steps("steps-32-progressive", "steps-16-progressive", "steps-8-progressive")
