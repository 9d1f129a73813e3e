"""The average of the weights: its formula, and where torch's own gives the same numbers."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sfmobile.train.ema import ExponentialMovingAverage


def steps(module: nn.Module, count: int):
    torch.manual_seed(0)
    for step in range(count):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter))
        yield step


def test_the_average_follows_its_formula():
    module = nn.Linear(2, 2, bias=False)
    average = ExponentialMovingAverage(module, decay=0.9)
    shadow = module.weight.detach().clone()
    for step in steps(module, 30):
        average.update(module, step)
        decay = min(0.9, (1 + step) / (10 + step))
        shadow = decay * shadow + (1 - decay) * module.weight.detach()
    torch.testing.assert_close(average.state_dict()["weight"], shadow)


def test_it_is_torchs_own_average_once_the_decay_has_risen():
    """Bit for bit, from the step on at which both have the same weights and the same decay."""
    module = nn.Linear(3, 2)
    average = ExponentialMovingAverage(module, decay=0.5)
    torchs: AveragedModel | None = None
    for step in steps(module, 30):
        average.update(module, step)
        if torchs is not None:
            torchs.update_parameters(module)
        elif (1 + step) / (10 + step) >= 0.5:
            torchs = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.5))
            torchs.module.load_state_dict(average.state_dict())
            torchs.n_averaged += 1
    assert torchs is not None
    for name, shadow in average.state_dict().items():
        assert torch.equal(shadow, torchs.module.state_dict()[name]), name


def test_it_starts_otherwise_than_torchs_which_takes_the_weights_over_at_its_first_update():
    module = nn.Linear(3, 2, bias=False)
    start = module.weight.detach().clone()
    average, torchs = (
        ExponentialMovingAverage(module, 0.9),
        AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9)),
    )
    for step in steps(module, 1):
        average.update(module, step)
        torchs.update_parameters(module)
    assert torch.equal(torchs.module.weight, module.weight)
    torch.testing.assert_close(average.state_dict()["weight"], 0.1 * start + 0.9 * module.weight)


def test_what_is_frozen_is_not_held():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).requires_grad_(False))
    assert set(ExponentialMovingAverage(module, 0.9).state_dict()) == {"0.weight", "0.bias"}
