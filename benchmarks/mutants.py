"""The mutation score of `sfmobile verify`: single faults put into bundles, and what catches them.

    python benchmarks/mutants.py BUNDLE... --source CHECKPOINT -n 60 [-o TABLE.txt] [--kept OUTCOMES.jsonl]

A fault that changes no output of the component, on inputs that excite all of it, is none: it is counted apart. What
catches the others is, in this order, the look at the stored weights, the look at the operations' attributes, or the
comparison of the programs in fp32 with the networks of the stored weights; faults in the manifest and the tokenizer
are caught by deriving both anew from the checkpoint and, without it, by replaying the golden run.

What became of each fault is appended to the file of `--kept`; run again after an interruption, only the others are
tried.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from sfmobile.bench.machine import describe_machine
from sfmobile.bundle.directory import Bundle
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.errors import SfmobileError
from sfmobile.observer import Observer
from sfmobile.runtime.mil.runtime import MilRuntime
from sfmobile.tables import Table
from sfmobile.verify.constants import constant_faults
from sfmobile.verify.exactness import QUICK, look, prove_component
from sfmobile.verify.excitation import exciting_inputs
from sfmobile.verify.mutants.manifest import manifest_mutants
from sfmobile.verify.mutants.mutant import Mutant, write_mutant
from sfmobile.verify.mutants.package import KINDS, package_mutants
from sfmobile.verify.replay import replay_faults
from sfmobile.verify.signal import agreement
from sfmobile.verify.weights import Known

WAYS = ("weights", "attributes", "programs", "constants", "refused")
SURVIVED, EQUIVALENT = "survived", "equivalent"


@dataclass
class Score:
    """What became of the mutants: by kind and outcome. replayed: manifest faults that the golden run alone shows."""

    found: Counter[tuple[str, str]] = field(default_factory=Counter)
    replayed: Counter[str] = field(default_factory=Counter)
    survivors: list[str] = field(default_factory=list)

    def take(self, mutant: Mutant, outcome: str) -> None:
        """Count one."""
        self.found[mutant.kind, outcome] += 1
        if outcome == SURVIVED:
            self.survivors.append(str(mutant))

    def add(self, other: Score) -> None:
        """Count all of another bundle's."""
        self.found.update(other.found)
        self.replayed.update(other.replayed)
        self.survivors += other.survivors

    def table(self, title: str, caption: str) -> Table:
        """The score, kind by kind."""
        kinds = dict.fromkeys(kind for kind, _ in self.found)
        rows = []
        for kind in [*kinds, "all"]:
            counts = {
                way: sum(n for (k, w), n in self.found.items() if w == way and kind in (k, "all"))
                for way in (*WAYS, EQUIVALENT, SURVIVED)
            }
            faults = sum(counts.values()) - counts[EQUIVALENT]
            share = f"{(faults - counts[SURVIVED]) / faults:.1%}" if faults else "-"
            rows.append((kind, *(str(count or "") for count in counts.values()), share))
        return Table(title, ("kind", *WAYS, EQUIVALENT, SURVIVED, "caught"), tuple(rows), caption=caption)


class Kept:
    """What became of the mutants that were tried before, in a file of one JSON object a line; nowhere without one."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path is not None and path.exists() else []
        self.found: dict[str, list[object]] = {}
        for line in lines:
            self.found.update(json.loads(line))

    def of(self, bundle: Bundle, mutant: Mutant, tried: Callable[[], tuple[str, bool]]) -> tuple[str, bool]:
        """Its outcome, and whether the golden run alone shows it; `tried` only if it isn't known."""
        key = f"{bundle.root.name}: {mutant}"
        if key not in self.found:
            self.found[key] = list(tried())
            if self.path is not None:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({key: self.found[key]}) + "\n")
        outcome, replayed = self.found[key]
        return str(outcome), bool(replayed)


def main() -> None:
    """Make the mutants of every bundle and print the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="+")
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("-n", type=int, default=60, help="Faults in each component's package.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="The tables as text; stdout without it.")
    parser.add_argument("--kept", type=Path, help="Where outcomes are kept, to go on from after an interruption.")
    options = parser.parse_args()
    kept = Kept(options.kept)
    checkpoint = Checkpoint.open(options.source)
    machine = describe_machine()
    total, texts = Score(), []
    for place, root in enumerate(options.bundle):
        bundle = Bundle.open(root, check="sizes")
        start = time.perf_counter()
        score = score_bundle(bundle, checkpoint, options.n, options.seed + place, kept)
        total.add(score)
        seconds = f"mil fp32; {machine.processor}, {machine.cores} cores, {time.perf_counter() - start:.0f} s."
        texts.append(str(score.table(f"{root.name}: faults, and what caught them", seconds)))
        print(texts[-1], file=sys.stderr, flush=True)
    faults = sum(total.found[kind, way] for kind in ("manifest", "tokenizer") for way in ("constants", SURVIVED))
    texts.append(str(total.table("All bundles", "Equivalent: the same outputs to the bit on inputs that excite all.")))
    texts.append(f"Of {faults} faults in manifests and tokenizers the golden run alone shows {total.replayed.total()}.")
    texts.append("\n".join(f"Survived: {survivor}" for survivor in total.survivors) or "None survived.")
    text = "\n\n".join(texts) + "\n"
    if options.output is None:
        print(text)
    else:
        options.output.write_text(text, encoding="utf-8")


def score_bundle(bundle: Bundle, checkpoint: Checkpoint, count: int, seed: int, kept: Kept) -> Score:
    """`count` faults in each package, and every one of the list in the manifest and the tokenizer."""
    score = Score()
    # Beside the bundle, so that what isn't changed can be linked.
    with tempfile.TemporaryDirectory(dir=bundle.root.parent) as scratch:
        root = Path(scratch) / "mutant"
        for component in bundle.manifest.components:
            # As many kinds as there are faults to make, drawn anew for each component and bundle.
            kinds = np.random.default_rng([seed, sum(component.encode())]).permutation(KINDS)[:count].tolist()
            known = Known()
            for mutant in package_mutants(bundle, component, count, seed, kinds):
                tried = partial(by_what, bundle, checkpoint, component, mutant, root, known)
                score.take(mutant, kept.of(bundle, mutant, tried)[0])
        for mutant in manifest_mutants(bundle):
            outcome, replayed = kept.of(bundle, mutant, partial(by_constants, bundle, checkpoint, mutant, root))
            score.take(mutant, outcome)
            score.replayed[mutant.kind] += replayed
    return score


def by_constants(bundle: Bundle, checkpoint: Checkpoint, mutant: Mutant, root: Path) -> tuple[str, bool]:
    """Whether the constants catch a mutant of them, and whether the golden run alone does."""
    copy = write_mutant(bundle, mutant, root)
    try:
        return "constants" if constant_faults(copy, checkpoint) else SURVIVED, bool(replay_faults(copy))
    finally:
        shutil.rmtree(root)


def by_what(
    bundle: Bundle, checkpoint: Checkpoint, component: str, mutant: Mutant, root: Path, known: Known
) -> tuple[str, bool]:
    """What catches a mutant: one of `WAYS` ("refused" if it doesn't run), or that nothing does.

    known: the best tables of the source's weights, which no mutant changes.
    """
    return _by_what(bundle, checkpoint, component, mutant, root, known.of_another_package()), False


def _by_what(bundle: Bundle, checkpoint: Checkpoint, component: str, mutant: Mutant, root: Path, known: Known) -> str:
    copy = write_mutant(bundle, mutant, root)
    try:
        looked = look(copy, checkpoint, component, Observer(), known)
        if looked.weights.faults:
            return "weights"
        if looked.attributes:
            return "attributes"
        if prove_component(copy, checkpoint, component, [], Observer(), QUICK, looked).passed:
            return EQUIVALENT if same_outputs(bundle, copy, component) else SURVIVED
        return "programs"
    except SfmobileError:
        return "refused"
    finally:
        shutil.rmtree(root)


def same_outputs(one: Bundle, other: Bundle, component: str) -> bool:
    """Whether both give the same to the bit on inputs that excite the component."""
    with MilRuntime(one).load(component) as first, MilRuntime(other).load(component) as second:
        return all(
            agreement(value, changed).identical
            for inputs in exciting_inputs(one.manifest, component, [])
            for value, changed in zip(first.predict(inputs).values(), second.predict(inputs).values(), strict=True)
        )


if __name__ == "__main__":
    main()
