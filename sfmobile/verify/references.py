"""The references that a bundle can be compared with, one entry each: what it is, why it isn't here, what it says.

    nets       our networks in torch fp32 with the checkpoint's weights: what Exact and Lost are measured against
    golden     the run that was recorded with them at export
    diffusers  the checkpoint read and drawn by diffusers' and transformers' own pipeline
    coreai     the exported programs on Apple's own operators

A reference more is an entry more in `REFERENCES`, its name in `ReferenceName`, and a file of its own for what it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfmobile.bench.verify_report import (
    ReferenceAgreement,
    ReferenceName,
    ReferenceRecord,
    SampleAgreement,
)
from sfmobile.errors import UnavailableError
from sfmobile.runtime.torch import TorchRuntime
from sfmobile.verify import diffusers_reference
from sfmobile.verify.constants import reference_pipeline
from sfmobile.verify.remembering import Remembering
from sfmobile.verify.runs import call_again, draws
from sfmobile.verify.verification import calls_of, compare_calls, golden_reference, worst_of

if TYPE_CHECKING:
    from sfmobile.bundle.choices import ComponentName
    from sfmobile.bundle.directory import Bundle
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.observer import Observer
    from sfmobile.sampling.pipeline import Request
    from sfmobile.verify.recording import Call

# Weights in fp32 and as much again for what is computed from them, of the largest component.
MEMORY_FACTOR = 2.0


@dataclass(frozen=True)
class Asked:
    """What is to be compared.

    checkpoint: None where it isn't here. networks: ours of the checkpoint, which remember what they gave already.
    drawings: the runs; the first is enough to read. recalls: whether they are also asked what the golden run asked.
    """

    bundle: Bundle
    checkpoint: Checkpoint | None
    drawings: Sequence[Request]
    components: Sequence[ComponentName]
    observer: Observer
    networks: Remembering | None = None
    recalls: bool = True

    @classmethod
    def of(
        cls,
        bundle: Bundle,
        checkpoint: Checkpoint | None,
        drawings: Sequence[Request],
        components: Sequence[ComponentName],
        observer: Observer,
    ) -> Asked:
        """With the checkpoint's networks, where it is here."""
        networks = None
        if checkpoint is not None:
            networks = Remembering(TorchRuntime(bundle, checkpoint), bundle.manifest.components)
        return cls(bundle, checkpoint, drawings, components, observer, networks)


@dataclass(frozen=True)
class Reference:
    """One reference. description: for people.

    why_not: a clause such as "diffusers isn't installed", or None if it is here and fits. compare: what it says beside
    the others, given calls of the trajectory; nothing if Exact and Lost are measured against it. slow: used only where
    it is asked for.
    """

    description: str
    why_not: Callable[[Asked], str | None]
    compare: Callable[[Asked, Sequence[Call]], Iterator[ReferenceAgreement]]
    slow: bool = False


def choose(asked: Asked, wanted: Sequence[ReferenceName]) -> list[ReferenceRecord]:
    """Which references are used, and why others aren't. Without `wanted` those that are here and fit in memory.

    Raises `UnavailableError` for a wanted one that can't be used.
    """
    records = []
    for name, reference in REFERENCES.items():
        if name not in wanted and (wanted or reference.slow):
            reason: str | None = "not asked for"
        else:
            reason = reference.why_not(asked)
        if reason is not None and name in wanted:
            raise UnavailableError(f"'{asked.bundle.root}' can't be compared with the reference {name}: {reason}.")
        records.append(ReferenceRecord(name=name, description=reference.description, skipped=reason))
    return records


def _no_nets(asked: Asked) -> str | None:
    import psutil

    if asked.checkpoint is None:
        return f"the checkpoint '{asked.bundle.manifest.source.id}' isn't here, name its directory with --source"
    needed = MEMORY_FACTOR * 4 * max(asked.checkpoint.parameters(name) for name in asked.components)
    available = psutil.virtual_memory().available
    if needed > available:
        return f"they need about {needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are free"
    return None


def _no_golden(asked: Asked) -> str | None:
    golden = asked.bundle.manifest.golden
    if golden is None:
        return "the bundle was exported without golden vectors"
    size = asked.bundle.manifest.latents
    if asked.bundle.golden("run.latents").shape[-2:] != (size.height, size.width):
        return "the golden vectors are of another latent size"
    return None


def _no_diffusers(asked: Asked) -> str | None:
    if asked.checkpoint is None:
        return "the checkpoint isn't here"
    if not draws(asked.bundle, asked.components):
        return "it draws with all components or not at all"
    return diffusers_reference.why_not(asked.checkpoint)


def _by_diffusers(asked: Asked, _: Sequence[Call]) -> Iterator[ReferenceAgreement]:
    assert asked.checkpoint is not None and asked.networks is not None
    drawing = asked.drawings[0]
    asked.observer.start("Read: diffusers (torch fp32)", 2 * calls_of(asked.bundle, drawing))
    with reference_pipeline(asked.bundle, asked.checkpoint, asked.networks) as pipeline:
        stages = diffusers_reference.compare_reading(asked.checkpoint, pipeline, drawing, asked.observer.advance)
    gate = diffusers_reference.READING_GATE_DB
    yield ReferenceAgreement(left="diffusers", right="our networks", stages=tuple(stages), gate_db=gate)


def _by_golden(asked: Asked, _: Sequence[Call]) -> Iterator[ReferenceAgreement]:
    """The recorded calls on our networks of today, where the checkpoint is here."""
    if asked.networks is None or not asked.recalls:
        return
    golden = golden_reference(asked.bundle, asked.components)
    asked.observer.start("Read: golden vectors", len(golden.calls))
    stages = []
    for name in asked.components:
        with asked.networks.load(name) as network:
            pairs = [(call, call_again(network, call, asked.observer.advance)) for call in golden.of(name)]
        stages.append(SampleAgreement(input=name, agreement=worst_of(compare_calls(*pair) for pair in pairs)))
    gate = diffusers_reference.READING_GATE_DB
    yield ReferenceAgreement(left="golden vectors", right="our networks", stages=tuple(stages), gate_db=gate)


def _no_coreai(asked: Asked) -> str | None:
    from sfmobile.verify.coreai_reference import why_not

    return why_not(asked.bundle)


def _by_coreai(asked: Asked, calls: Sequence[Call]) -> Iterator[ReferenceAgreement]:
    from sfmobile.verify.coreai_reference import OPERATORS_GATE_DB, compare_coreai

    found = [one for one in compare_coreai(asked.bundle, calls, asked.observer) if one.component in asked.components]
    yield ReferenceAgreement(
        left="Apple's runtime",
        right="mil fp32",
        stages=tuple(SampleAgreement(input=one.name, agreement=one.worst.agreement) for one in found),
        gate_db=OPERATORS_GATE_DB,
        first_divergence=next((one.fault for one in found if one.fault is not None), None),
    )


REFERENCES: dict[ReferenceName, Reference] = {
    "nets": Reference("our networks in torch fp32, the checkpoint's weights", _no_nets, lambda asked, calls: iter(())),
    "golden": Reference("the run recorded at export", _no_golden, _by_golden),
    "diffusers": Reference("diffusers' own pipeline of the checkpoint, torch fp32", _no_diffusers, _by_diffusers),
    "coreai": Reference("the programs on Apple's Core AI runtime, fp32", _no_coreai, _by_coreai, slow=True),
}
