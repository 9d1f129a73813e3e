"""coremltools' own operator tests, with the mil runtime in Core ML's place: which share of them it passes.

    python benchmarks/op_conformance.py [--minutes N] [-k EXPRESSION] [-o benchmarks/results/op_conformance.json]

The tests are those that coremltools ships (`converters/mil/mil/ops/tests`), run on the ML Program backend in float16.
`MLModel.predict` is answered by `sfmobile.Model` in fp16 evaluation; a result passes within 1 % of the expected
values' range (coremltools itself allows 0.5, or 5 %), with equal shapes and equal whole numbers. Judged are tests that
predict; those that coremltools marks as failing on Core ML itself, and those that need TensorFlow, aren't.

Failures are explained in `op_conformance_rest.json`, by a regular expression of the test's name; one that isn't makes
this exit with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import re
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TESTS = "coremltools.converters.mil.mil.ops.tests"
REST = Path(__file__).with_name("op_conformance_rest.json")
SHARE_OF_RANGE = 0.01


class Recorder:
    """Which tests predict, and how they end."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes if minutes else float("inf")
        self.collected = 0
        self.seen = 0
        self.current = ""
        self.predicting: set[str] = set()
        self.failures: dict[str, str] = {}
        self.passed: set[str] = set()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """An order without order, the same in each run: as far as the time goes, a sample of all."""
        items.sort(key=lambda item: zlib.crc32(item.nodeid.encode()))
        self.collected = len(items)

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Remember whose predictions follow; none do when the time is over."""
        if time.monotonic() > self.end:
            item.session.shouldstop = "the time is over"
        self.current = item.nodeid.split("ops/tests/")[-1]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep how a test ended; one expected to fail on Core ML isn't judged."""
        name = report.nodeid.split("ops/tests/")[-1]
        self.seen += report.when == "setup"
        if report.when != "call" or hasattr(report, "wasxfail") or name not in self.predicting:
            return
        if report.passed:
            self.passed.add(name)
        elif report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.failures[name] = " ".join(str(crash.message if crash else report.longrepr).split())[:400]


def stand_in(recorder: Recorder) -> None:
    """Put the mil runtime behind coremltools' `MLModel`, and compare by share of range."""
    import coremltools as ct
    from coremltools.converters.mil import testing_utils
    from coremltools.models import utils

    import sfmobile
    from sfmobile.errors import SfmobileError
    from sfmobile.runtime.model import ModelState

    def predict(self: Any, data: Any, state: ModelState | None = None) -> Any:
        if self.package_path is None:
            pytest.skip("a neural network of the kind before ML Programs")
        recorder.predicting.add(recorder.current)
        try:
            return sfmobile.Model(self.package_path, precision="fp16").predict(data, state)
        except SfmobileError as error:
            # What a test expects of Core ML where an index is out of range.
            raise RuntimeError(f"Unable to compute the prediction using ML Program: {error}") from error

    def make_state(self: Any) -> ModelState:
        return sfmobile.Model(self.package_path, precision="fp16").make_state()

    def compare(
        mlmodel: Any, input_key_values: Any, expected_outputs: Any, dtype: str = "", atol: float = 0, rtol: float = 0,
        also_compare_shapes: bool = True, state: Any = None, allow_mismatch_ratio: float = 0.0,
    ) -> Any:  # fmt: skip
        found = mlmodel.predict(dict(input_key_values), state)
        for name, expected in (expected_outputs or {}).items():
            value = found[name] if name in found else found[name.replace("/", "_")]
            if isinstance(value, dict) or not isinstance(expected, (np.ndarray, np.generic)):
                assert value == expected, f"{name} is {value}, expected {expected}"
                continue
            wanted = np.asarray(expected)
            value = np.asarray(value)
            if also_compare_shapes:
                # Core ML has no scalars as outputs.
                same = value.shape == wanted.shape or (wanted.shape == () and value.shape == (1,))
                assert same, f"{name} has shape {value.shape}, expected {wanted.shape}"
            numbers = wanted[np.isfinite(wanted)] if wanted.dtype.kind == "f" else wanted
            allowed = SHARE_OF_RANGE * float(np.abs(numbers).max(initial=0)) if wanted.dtype.kind == "f" else 0
            # 1e-3: what cancellation leaves where zero is expected.
            np.testing.assert_allclose(value, wanted, rtol=0, atol=max(allowed, 1e-3), err_msg=name)
        return found

    ct.models.MLModel.predict = predict
    ct.models.MLModel.make_state = make_state
    testing_utils._IS_MACOS = True
    testing_utils.compare_backend = compare
    testing_utils.macos_compatible_with_deployment_target = lambda target: True
    utils._macos_version = lambda: (15, 2)


def explained(failures: dict[str, str]) -> tuple[Counter[str], dict[str, str]]:
    """How many failures each reason explains, and those that none does."""
    reasons: dict[str, str] = json.loads(REST.read_text(encoding="utf-8"))
    counts: Counter[str] = Counter()
    open_ones = {}
    for name, message in failures.items():
        reason = next((text for pattern, text in reasons.items() if re.search(pattern, name)), None)
        if reason is None:
            open_ones[name] = message
        else:
            counts[reason] += 1
    return counts, open_ones


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=0, help="stop after so many: a sample of all tests")
    parser.add_argument("-k", default="", help="pytest's choice by name")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    os.environ["PYMIL_TEST_TARGETS"] = "mlprogram"
    os.environ["TQDM_DISABLE"] = "1"
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    recorder = Recorder(arguments.minutes)
    stand_in(recorder)
    options = ["-q", "--no-header", "--tb=line", "-W", "ignore", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    options += ["--pyargs", TESTS, "-c", os.devnull, "--show-capture=no", *(["-k", arguments.k] if arguments.k else [])]
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        pytest.main(options, plugins=[recorder])
    judged = len(recorder.passed) + len(recorder.failures)
    reasons, open_ones = explained(recorder.failures)
    share = 100 * len(recorder.passed) / max(judged, 1)
    ran = f"{recorder.seen} of {recorder.collected} collected ones ran"
    print(f"{len(recorder.passed)} of {judged} judged tests pass ({share:.1f} %); {ran}.")
    for reason, count in reasons.most_common():
        print(f"{count:5d}  {reason}")
    for name, message in open_ones.items():
        print(f"unexplained  {name}: {message}")
    if arguments.output:
        result = {
            "kind": "op_conformance",
            "collected": recorder.collected,
            "ran": recorder.seen,
            "judged": judged,
            "passed": len(recorder.passed),
            "explained": dict(reasons),
            "unexplained": open_ones,
        }
        arguments.output.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if open_ones else 0


if __name__ == "__main__":
    sys.exit(main())
