"""The mutation score of `sfmobile verify`: single faults put into bundles, and what catches them.

    python benchmarks/mutants.py BUNDLE... --source CHECKPOINT -n 60 [-o TABLE.txt]

A fault that changes no output of the component, on inputs that excite all of it, is none: it is counted apart. What
catches the others is, in this order, the look at the stored weights, the look at the operations' attributes, or the
comparison of the programs in fp32 with the networks of the stored weights; faults in the manifest and the tokenizer
are caught by deriving both anew from the checkpoint and, without it, by replaying the golden run.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
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
from sfmobile.verify.mutants import KINDS, Mutant, manifest_mutants, package_mutants, write_mutant
from sfmobile.verify.replay import replay_faults
from sfmobile.verify.signal import agreement

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


def main() -> None:
    """Make the mutants of every bundle and print the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="+")
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("-n", type=int, default=60, help="Faults in each component's package.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, help="The tables as text; stdout without it.")
    options = parser.parse_args()
    checkpoint = Checkpoint.open(options.source)
    machine = describe_machine()
    total, texts = Score(), []
    for place, root in enumerate(options.bundle):
        bundle = Bundle.open(root, check="sizes")
        start = time.perf_counter()
        score = score_bundle(bundle, checkpoint, options.n, options.seed + place)
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


def score_bundle(bundle: Bundle, checkpoint: Checkpoint, count: int, seed: int) -> Score:
    """`count` faults in each package, and every one of the list in the manifest and the tokenizer."""
    score = Score()
    # Beside the bundle, so that what isn't changed can be linked.
    with tempfile.TemporaryDirectory(dir=bundle.root.parent) as scratch:
        root = Path(scratch) / "mutant"
        for component in bundle.manifest.components:
            # As many kinds as there are faults to make, drawn anew for each component and bundle.
            kinds = np.random.default_rng([seed, sum(component.encode())]).permutation(KINDS)[:count].tolist()
            for mutant in package_mutants(bundle, component, count, seed, kinds):
                score.take(mutant, by_what(bundle, checkpoint, component, mutant, root))
        for mutant in manifest_mutants(bundle):
            copy = write_mutant(bundle, mutant, root)
            score.take(mutant, "constants" if constant_faults(copy, checkpoint) else SURVIVED)
            score.replayed[mutant.kind] += bool(replay_faults(copy))
            shutil.rmtree(root)
    return score


def by_what(bundle: Bundle, checkpoint: Checkpoint, component: str, mutant: Mutant, root: Path) -> str:
    """What catches a mutant: one of `WAYS` ("refused" if it doesn't run), or that nothing does."""
    copy = write_mutant(bundle, mutant, root)
    try:
        looked = look(copy, checkpoint, component, Observer())
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
