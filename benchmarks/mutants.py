"""The mutation score of `sfmobile verify`: single faults put into a bundle, and what catches them.

    python benchmarks/mutants.py BUNDLE --source CHECKPOINT -n 60

A fault that changes no output of the component, on inputs that excite all of it, is none: it is counted apart. What
catches the others is either the look at the stored weights or the comparison of the programs in fp32 with the networks
of those weights; faults in the manifest and the tokenizer are caught by deriving both anew.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

from sfmobile.bench.machine import describe_machine
from sfmobile.bundle.choices import ComponentName
from sfmobile.bundle.directory import Bundle
from sfmobile.bundle.pipeline import TEXT_TO_IMAGE
from sfmobile.checkpoint.directory import Checkpoint
from sfmobile.cli.console import note, print_table
from sfmobile.errors import SfmobileError
from sfmobile.observer import Observer
from sfmobile.runtime.mil.runtime import MilRuntime
from sfmobile.verify.constants import constant_faults
from sfmobile.verify.exactness import prove_component
from sfmobile.verify.excitation import exciting_inputs
from sfmobile.verify.mutants import Mutant, manifest_mutants, package_mutants, write_mutant
from sfmobile.verify.signal import agreement

SURVIVED, EQUIVALENT = "survived", "equivalent"


def main() -> None:
    """Make the mutants of one bundle and print the score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("-n", type=int, default=60, help="Faults in each component's package.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    bundle, checkpoint = Bundle.open(options.bundle), Checkpoint.open(options.source)
    start = time.perf_counter()
    found: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        for component in TEXT_TO_IMAGE:
            for mutant in package_mutants(bundle, component, options.n, options.seed):
                caught = by_what(bundle, checkpoint, component, mutant, Path(scratch) / "mutant")
                found[mutant.kind, caught] += 1
                if caught == SURVIVED:
                    note(f"Survived: {mutant}")
        for mutant in manifest_mutants(bundle):
            copy = write_mutant(bundle, mutant, Path(scratch) / "mutant")
            found[mutant.kind, "constants" if constant_faults(copy, checkpoint) else SURVIVED] += 1
            shutil.rmtree(copy.root)
    show(bundle, found, time.perf_counter() - start)


def by_what(bundle: Bundle, checkpoint: Checkpoint, component: ComponentName, mutant: Mutant, root: Path) -> str:
    """What catches a mutant: "weights", "programs", "refused" (it doesn't run), or that nothing does."""
    copy = write_mutant(bundle, mutant, root)
    try:
        proof = prove_component(copy, checkpoint, component, [], Observer())
        if proof.weights.faults:
            return "weights"
        if not proof.passed:
            return "programs"
        return EQUIVALENT if same_outputs(bundle, copy, component) else SURVIVED
    except SfmobileError:
        return "refused"
    finally:
        shutil.rmtree(root)


def same_outputs(one: Bundle, other: Bundle, component: ComponentName) -> bool:
    """Whether both give the same to the bit on inputs that excite the component."""
    with MilRuntime(one).load(component) as first, MilRuntime(other).load(component) as second:
        return all(
            agreement(value, changed).identical
            for inputs in exciting_inputs(one.manifest, component, [])
            for value, changed in zip(first.predict(inputs).values(), second.predict(inputs).values(), strict=True)
        )


def show(bundle: Bundle, found: Counter[tuple[str, str]], seconds: float) -> None:
    """The score, kind by kind."""
    ways = ("weights", "programs", "constants", "refused", EQUIVALENT, SURVIVED)
    kinds = dict.fromkeys(kind for kind, _ in found)
    rows = []
    for kind in [*kinds, "all"]:
        counts = {way: sum(n for (k, w), n in found.items() if w == way and kind in (k, "all")) for way in ways}
        faults = sum(counts.values()) - counts[EQUIVALENT]
        caught = faults - counts[SURVIVED]
        share = f"{caught / faults:.1%}" if faults else "-"
        rows.append((kind, *(str(counts[way]) for way in ways), share))
    machine = describe_machine()
    print_table(
        f"Faults in {bundle.manifest.name}, and what caught them",
        ("kind", *ways, "caught"),
        rows,
        caption=f"mil fp32; {machine.processor}, {machine.cores} cores, {seconds:.0f} s.",
    )


if __name__ == "__main__":
    main()
