"""How long a golden run is: what it costs is known before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import UsageError
from sfmobile.export import golden
from sfmobile.export.exported import export_checkpoint
from sfmobile.export.golden import plan_golden_run
from sfmobile.export.options import ExportOptions
from sfmobile.runtime.torch import TorchRuntime
from sfmobile.sampling.golden import golden_run
from tests.log import Log


def test_small_models_take_all_of_their_steps(tiny_bundle: Bundle, tiny_checkpoint: Checkpoint) -> None:
    plan = plan_golden_run(tiny_checkpoint, tiny_bundle.manifest)
    assert plan.steps == plan.default == tiny_bundle.manifest.pipeline.default_steps
    assert "of 8" not in str(plan)


def test_what_a_run_costs_is_counted_as_torch_counts_it(tiny_bundle: Bundle, tiny_checkpoint: Checkpoint) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    plan = plan_golden_run(tiny_checkpoint, tiny_bundle.manifest, 2)
    with FlopCounterMode(display=False) as counter:
        golden_run(tiny_bundle, tiny_checkpoint, steps=2)
    runtime = TorchRuntime(tiny_bundle, tiny_checkpoint)
    with FlopCounterMode(display=False) as again, runtime.load("text_encoder") as encoder:
        encoder.predict({"input_ids": tiny_bundle.golden("text_encoder.input_ids")})
    # The vectors take the prompt's embedding once more; torch doesn't count what its attention kernel multiplies.
    assert plan.operations == pytest.approx(counter.get_total_flops() - again.get_total_flops(), rel=0.06)


def test_at_full_size_a_run_is_as_long_as_half_a_minute_has_room_for(
    tiny_bundle: Bundle, tiny_checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    per_step = plan_golden_run(tiny_checkpoint, tiny_bundle.manifest, 2).operations
    per_step -= plan_golden_run(tiny_checkpoint, tiny_bundle.manifest, 1).operations
    monkeypatch.setattr(golden, "AFFORDABLE", plan_golden_run(tiny_checkpoint, tiny_bundle.manifest, 3).operations + 1)
    plan = plan_golden_run(tiny_checkpoint, tiny_bundle.manifest)
    assert plan.steps == 3 and "3 steps of 8 (--golden-steps for more, --no-golden for none)" in str(plan)
    monkeypatch.setattr(golden, "AFFORDABLE", per_step / 2)
    assert plan_golden_run(tiny_checkpoint, tiny_bundle.manifest).steps == 1


def test_the_price_is_said_before_and_a_wish_is_followed(
    tiny_bundle: Bundle, tiny_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Exported again into a copy, everything is reused but the golden run that has another length."""
    root = Path(shutil.copytree(tiny_bundle.root, tmp_path / "bundle"))
    for wish, steps in ((None, 2), (1, 1), (None, 1)):
        log = Log()
        made = export_checkpoint(tiny_checkpoint, root, ExportOptions(), golden_steps=wish, observer=log)
        assert made.manifest.golden is not None and made.manifest.golden.steps == steps
        assert all(one.reused for one in made.made.values())
        said = [note.split(":")[0] for note in log.notes if note.startswith("The golden run")]
        words = f"The golden run takes {wish} steps of 8 (--golden-steps for more, --no-golden for none)"
        assert said == ([words] if wish else [])
        assert not wish or log.done["recording golden vectors"] == steps + 1
    with pytest.raises(UsageError, match="choose one"):
        export_checkpoint(tiny_checkpoint, root, ExportOptions(), golden=False, golden_steps=2)
