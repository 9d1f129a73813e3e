from __future__ import annotations

import pytest

from sfmobile.page.charts import COLOURS, Bar, bar_chart, line_chart

BARS = [Bar("unet", (("down_blocks.0.resnets.0", 2.0), ("mid_block.attentions.0", 1.0))), Bar("decoder", ())]


def test_bars_are_as_long_as_what_they_show_and_coloured_by_kind_of_block() -> None:
    chart = bar_chart(BARS, 3.0)
    resnet, attention = chart.bars[0].parts
    assert (resnet.kind, attention.kind) == ("resnet", "attention")
    assert resnet.width == pytest.approx(2 * attention.width)
    assert attention.x == pytest.approx(resnet.x + resnet.width)
    # The bar is as long as the limit is away.
    assert chart.limit_x == pytest.approx(attention.x + attention.width)
    assert chart.bars[1].parts == ()


def test_all_of_a_chart_stands_inside_it() -> None:
    for limit in (0.5, 3.0, 8.9, 2000.0):
        chart = bar_chart(BARS, limit)
        ends = [part.x + part.width for bar in chart.bars for part in bar.parts]
        assert max([*ends, chart.limit_x or 0.0]) <= chart.width
        assert chart.bars[-1].top + 22 <= chart.height


def test_a_far_budget_is_told_rather_than_drawn() -> None:
    near, far = bar_chart(BARS, 5.0), bar_chart(BARS, 2000.0)
    assert near.limit_x is not None and far.limit_x is None
    assert round(far.limit_by_longest) == 667
    resnet, attention = far.bars[0].parts
    assert resnet.width == pytest.approx(2 * attention.width)


def test_steps_without_a_finite_value_leave_a_gap() -> None:
    chart = line_chart([("fp16", [60.0, None, 58.0]), ("none", [None])])
    assert chart is not None
    (line,) = chart.lines
    assert [x for x, _ in line.points] == [chart.steps[0], chart.steps[2]]
    assert line.points[0][1] < line.points[1][1]
    assert line_chart([("none", [None])]) is None


def test_ticks_are_round_numbers_within_the_lines_reach() -> None:
    for low, high in ((58.9, 64.2), (41.0, 41.1), (20.0, 131.0)):
        chart = line_chart([("fp16", [low, high])])
        assert chart is not None
        values = [tick.value for tick in chart.ticks]
        assert 2 <= len(values) <= 6
        assert all(value == round(value) for value in values) and values == sorted(values)
        assert all(chart.top - 1 <= tick.y <= chart.bottom + 1 for tick in chart.ticks)


def test_a_line_keeps_its_colour_whichever_of_the_others_can_be_drawn() -> None:
    lines = [(str(number), [float(number)] if number != 1 else [None]) for number in range(COLOURS + 1)]
    chart = line_chart(lines)
    assert chart is not None
    assert [(line.label, line.colour) for line in chart.lines] == [("0", 0), ("2", 2), ("3", 3), ("4", 0)]
