"""The loop learns, resumes bit for bit, and stops at a loss that isn't a number."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from sfmobile.errors import ArtifactError, UsageError
from sfmobile.train.config import LoopConfig
from sfmobile.train.loop import STATE, DivergedError, TrainingLoop, learning_rate
from sfmobile.train.randomness import generator_for
from sfmobile.train.state import load_tensors, save_tensors

CONFIG = LoopConfig(
    steps=12, batch_size=8, learning_rate=1e-2, warmup_steps=2, precision="no", log_every=3, checkpoint_every=4
)


class Regression(nn.Module):
    """Learns y = 2x with an embedding and a matrix, so that both weight-decay groups exist."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.token_embedding = nn.Embedding(4, 4)
        self.linear = nn.Linear(4, 4)

    def forward(self, x, ids, poison):
        error = self.linear(x) + self.token_embedding(ids) - 2 * x
        return {"loss": error.square().mean() + poison}


class Stage:
    name = "regression"

    def __init__(self, poisoned_from: int | None = None, killed_at: int | None = None) -> None:
        self.objective = Regression()
        self.poisoned_from, self.killed_at = poisoned_from, killed_at
        self.seen: list[int] = []

    def inputs(self, index, batch_size, device):
        if index == self.killed_at:
            raise KeyboardInterrupt
        self.seen.append(index)
        generator = generator_for(device, self.name, 0, index)
        x = torch.randn(batch_size, 4, generator=generator)
        ids = torch.randint(0, 4, (batch_size,), generator=generator)
        bad = self.poisoned_from is not None and index >= self.poisoned_from
        return x, ids, torch.tensor(float("nan") if bad else 0.0)


def run(stage, directory, config=CONFIG):
    return TrainingLoop(stage, config, directory, cpu=True).run()


def test_the_loss_falls_and_the_result_is_the_average(tmp_path):
    stage = Stage()
    weights = run(stage, tmp_path, replace(CONFIG, steps=200))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.05 * lines[0]["loss"]
    assert lines[-1]["step"] == 200
    stored, _ = load_tensors(tmp_path / STATE, "ema/")
    raw = dict(stage.objective.named_parameters())
    for name, value in weights.items():
        assert torch.equal(stored[name], value)
        assert not torch.equal(raw[name], value)


@pytest.mark.parametrize("killed_at", [1, 5, 11])
def test_a_killed_run_goes_on_with_the_same_data_and_ends_at_the_same_bits(tmp_path, killed_at):
    whole = run(Stage(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(Stage(killed_at=killed_at), tmp_path / "killed")
    second = Stage()
    resumed = run(second, tmp_path / "killed")
    assert second.seen == list(range(killed_at // CONFIG.checkpoint_every * CONFIG.checkpoint_every, CONFIG.steps))
    for name, value in whole.items():
        assert torch.equal(resumed[name], value), name


def in_two_files(directory, step):
    """The checkpoint in `directory` as versions before wrote it, its record saying `step`."""
    tensors, metadata = load_tensors(directory / STATE)
    save_tensors(directory / STATE, tensors)
    (directory / "state.json").write_text(json.dumps({**json.loads(metadata["state"]), "step": step}))


def test_a_checkpoint_of_an_older_version_is_taken_up(tmp_path):
    whole = run(Stage(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(Stage(killed_at=5), tmp_path / "old")
    in_two_files(tmp_path / "old", 4)
    second = Stage()
    resumed = run(second, tmp_path / "old")
    assert second.seen == list(range(4, CONFIG.steps))
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    assert not (tmp_path / "old" / "state.json").exists()


def test_an_older_checkpoint_whose_two_files_are_of_different_steps_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Stage(killed_at=9), tmp_path)
    in_two_files(tmp_path, 4)
    with pytest.raises(ArtifactError, match=r"state\.json' is of step 4, the weights beside it are of step 8"):
        run(Stage(), tmp_path)
    (tmp_path / "state.json").unlink()
    with pytest.raises(ArtifactError, match=r"state\.json' doesn't exist: expected a training state"):
        run(Stage(), tmp_path)


def test_accumulated_micro_steps_equal_one_large_batch(tmp_path):
    class Halves(Stage):
        def inputs(self, index, batch_size, device):
            step, half = divmod(index, 2)
            x, ids, poison = super().inputs(step, batch_size * 2, device)
            part = slice(half * batch_size, (half + 1) * batch_size)
            return x[part], ids[part], poison

    large = run(Stage(), tmp_path / "large")
    small = run(Halves(), tmp_path / "small", replace(CONFIG, batch_size=4, gradient_accumulation=2))
    for name, value in large.items():
        torch.testing.assert_close(small[name], value, rtol=1e-5, atol=1e-6)


def test_a_nan_stops_the_run_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(DivergedError, match="at step 7"):
        run(Stage(poisoned_from=7), tmp_path)
    tensors, metadata = load_tensors(tmp_path / STATE)
    assert json.loads(metadata["state"])["step"] == 4
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    # And it can go on from there.
    resumed = run(Stage(), tmp_path)
    assert torch.equal(resumed["linear.weight"], run(Stage(), tmp_path / "whole")["linear.weight"])


def test_other_settings_dont_resume_an_old_run(tmp_path):
    run(Stage(), tmp_path)
    with pytest.raises(UsageError, match=r"learning_rate=0.01, found learning_rate=0.5"):
        run(Stage(), tmp_path, replace(CONFIG, learning_rate=0.5))


def test_a_damaged_checkpoint_is_named(tmp_path):
    run(Stage(), tmp_path)
    state = tmp_path / "state.safetensors"
    state.write_bytes(state.read_bytes()[:200])
    with pytest.raises(ArtifactError, match="damaged"):
        run(Stage(), tmp_path)


def test_the_learning_rate_warms_up_stays_and_falls_to_nearly_zero():
    config = replace(CONFIG, steps=100, warmup_steps=10, decay_fraction=0.5)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:50] == [1.0] * 40
    assert rates[-1] == pytest.approx(1 / 50)
    assert all(a >= b for a, b in itertools.pairwise(rates[50:]))


def test_embeddings_and_biases_are_not_decayed(tmp_path):
    loop = TrainingLoop(Stage(), CONFIG, tmp_path, cpu=True)
    assert loop.groups == [["linear.weight"], ["token_embedding.weight", "linear.bias"]]
