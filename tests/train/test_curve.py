from __future__ import annotations

from pathlib import Path

import pytest

from sfmobile.errors import ArtifactError
from sfmobile.train.curve import plot_log, read_log


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"step": 1e400, "loss": 1}', "is not JSON"),
        ('{"step": -1, "loss": 1}', "at step: "),
        ('{"step": 1, "loss": "much"}', "at loss: "),
        ('{"step": 1, "loss": Infinity}', "is not JSON"),
        ('{"step": 1, "loss": [1]}', "at loss: "),
        ("[" * 100_000, "is nested too deeply"),
        ("null", "it should be an object"),
    ],
)
def test_a_line_that_is_none_is_one_sentence_and_at_the_end_one_that_a_kill_cut(
    line: str, sentence: str, tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    good = '{"step": 1, "loss": 0.5, "gradient_norm": null}\n'
    log.write_text(good + line)
    assert read_log(log) == {"loss": [(1, 0.5)]}
    log.write_text(line + "\n" + good)
    with pytest.raises(ArtifactError, match=r"log\.jsonl' line 1 ") as refusal:
        read_log(log)
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)
    log.write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match="is not UTF-8"):
        read_log(log)


def test_names_with_dollars_are_no_formulas(tmp_path: Path) -> None:
    folder = tmp_path / "a $run{ $"
    folder.mkdir()
    (folder / "log.jsonl").write_text('{"step": 1, "cost $\\\\x{ $": 0.5}\n{"step": 2, "cost $\\\\x{ $": 0.25}\n')
    plot_log(folder / "log.jsonl", folder / "curve.png")
    assert (folder / "curve.png").stat().st_size > 1000
