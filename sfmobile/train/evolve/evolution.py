"""Architecture evolving (SnapFusion, Algorithm 1): what each block is worth per millisecond decides what stays.

Every round: fine-tune with blocks dropped at random, weigh each removal by carrying it out, then either remove the
blocks that cost the least agreement per millisecond saved (while latency is above the target), or copy the ones whose
loss would cost the most per millisecond (below it). The paper gives neither the number of actions a round nor of
rounds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sfmobile.bundle.bounds import out_of_bounds
from sfmobile.errors import ArtifactError, GateError, UsageError
from sfmobile.files import parse_json, read_json, read_text, validated, write_json
from sfmobile.nets.layout import UNetLayout
from sfmobile.nets.unet import UNet
from sfmobile.train import processes
from sfmobile.train.config import parse_config
from sfmobile.train.evolve.mutation import Action, actions, apply, mutate
from sfmobile.train.state import load_tensors, save_tensors

# Agreement of a network's pictures with their prompts; higher is better.
Score = Callable[[UNet], float]
# Milliseconds of one UNet call of a layout, from the lookup table.
Latency = Callable[[UNetLayout], float]
# Fine-tunes a network in place for round `number`.
FineTune = Callable[[UNet, int], None]
# Told of each decision as it is made.
Told = Callable[[str], None]
# Told how many removals of a round's are weighed, by this process, of how many.
Counted = Callable[[int, int], None]


@dataclass(frozen=True)
class EvolutionConfig:
    """target_ms: latency of one UNet call to reach; rounds: at most; removals, copies: actions applied in a round;
    slack: below target_ms * (1 - slack) blocks are copied again."""

    target_ms: float
    rounds: int = 8
    removals: int = 2
    copies: int = 1
    slack: float = 0.05


@dataclass(frozen=True)
class Weighed:
    """What one removal would change: score lost, milliseconds saved."""

    action: Action
    score_lost: float
    milliseconds_saved: float

    @property
    def value(self) -> float:
        """Score lost per millisecond saved (the paper's dCLIP / dLatency); infinite if nothing is saved."""
        return self.score_lost / self.milliseconds_saved if self.milliseconds_saved > 0 else float("inf")


class Evolution:
    """An evolution in a directory: `decisions.jsonl` says why, `round-N/` holds each round's layout and weights.

    A killed evolution goes on with the round it was in; weighings already made are kept. In an accelerate launch every
    process runs it: removals are weighed by all, files are written by the first.
    """

    def __init__(
        self,
        root: Path,
        config: EvolutionConfig,
        score: Score,
        latency: Latency,
        fine_tune: FineTune,
        told: Told = lambda sentence: None,
        counted: Counted = lambda done, total: None,
    ) -> None:
        self.root = root
        self.config = config
        self.score, self.latency, self.fine_tune = score, latency, fine_tune
        self.told, self.counted = told, counted

    def run(self, supernet: UNet) -> UNet:
        """Evolve from `supernet`; returns the network of the last round.

        Raises `UsageError` with the lowest latency found if the target is below that, `GateError` if the rounds end
        above it.
        """
        self._check_target(supernet.layout)
        unet, number = self._resume(supernet)
        settled = any(decision["chosen"] == [] for decision in read_decisions(self.root))
        while number < self.config.rounds and not settled:
            unet, settled = self._round(unet, number)
            number += 1
        reached = self.latency(unet.layout)
        if reached > self.config.target_ms:
            raise GateError(
                f"After {number} rounds the UNet takes {reached:.4g} ms, above the target of "
                f"{self.config.target_ms:.4g} ms; allow more rounds or more removals a round."
            )
        return unet

    def _check_target(self, layout: UNetLayout) -> None:
        lowest = self._lowest(layout)
        if lowest > self.config.target_ms:
            raise UsageError(
                f"A target of {self.config.target_ms:.4g} ms can't be reached: with every removable block gone the "
                f"UNet still takes {lowest:.4g} ms; raise target_ms or start from a narrower layout."
            )

    def _lowest(self, layout: UNetLayout) -> float:
        """Latency with every removable block removed."""
        while True:
            removals = [action for action in actions(layout) if action.kind == "remove"]
            if not removals:
                return self.latency(layout)
            layout = apply(layout, removals[-1])

    # One round ------------------------------------------------------------------------------------------------------

    def _round(self, unet: UNet, number: int) -> tuple[UNet, bool]:
        """Fine-tune, weigh, act; returns the new network and whether nothing is left to do."""
        directory = self.root / f"round-{number}"
        layout = unet.layout
        self.fine_tune(unet, number)
        before = self.latency(layout)
        whole, weighed = self._weigh(unet, directory)
        chosen = self._choose(layout, before, weighed)
        for action in chosen:
            unet = mutate(unet, action, name=f"evolved-{number + 1}")
        after = self.latency(unet.layout)
        decision = {
            "round": number,
            "score": whole,
            "latency_ms": before,
            "latency_after_ms": after,
            "target_ms": self.config.target_ms,
            "weighed": [
                {"action": str(w.action), "score_lost": w.score_lost, "milliseconds_saved": w.milliseconds_saved}
                for w in weighed
            ],
            "chosen": [str(action) for action in chosen],
            "layout_before": asdict(layout),
            "layout": asdict(unet.layout),
        }
        if processes.rank() == 0:
            # First the reason, then the network: a kill in between repeats the round and its entry.
            _append(self.root / "decisions.jsonl", decision)
            self._write_round(number + 1, unet)
        processes.wait()
        names = "; ".join(map(str, chosen)) or "nothing"
        self.told(
            f"round {number}: score {whole:.4f}, {before:.4g} ms -> {after:.4g} ms "
            f"(target {self.config.target_ms:.4g}): {names}"
        )
        return unet, not chosen

    def _weigh(self, unet: UNet, directory: Path) -> tuple[float, list[Weighed]]:
        """The network's own score, and what each removal loses of it, by value."""
        layout = unet.layout
        candidates = [action for action in actions(layout) if action.kind == "remove"]
        directory.mkdir(parents=True, exist_ok=True)
        known = _read_weighings(directory / "weighed.jsonl")
        processes.wait()
        mine = [action for action in candidates[processes.rank() :: processes.count()] if str(action) not in known]
        if "nothing" not in known and processes.rank() == 0:
            known["nothing"] = self.score(unet)
            _append(directory / "weighed.jsonl", {"action": "nothing", "score": known["nothing"]})
        for done, action in enumerate(mine):
            self.counted(done, len(mine))
            known[str(action)] = self.score(mutate(unet, action))
            _append(directory / "weighed.jsonl", {"action": str(action), "score": known[str(action)]})
        self.counted(len(mine), len(mine))
        known = processes.gathered(known)
        whole, base = known["nothing"], self.latency(layout)
        weighed = [
            Weighed(action, whole - known[str(action)], base - self.latency(apply(layout, action)))
            for action in candidates
        ]
        return whole, sorted(weighed, key=lambda w: w.value)

    def _choose(self, layout: UNetLayout, latency: float, weighed: Sequence[Weighed]) -> list[Action]:
        """Algorithm 1: remove what is worth least per millisecond while above the target, copy what is worth most
        while well below it. `weighed` is in the order of value."""
        config = self.config
        if latency > config.target_ms:
            removals = _independent([w.action for w in weighed], config.removals)
            # No more than the target asks for.
            for needed in range(1, len(removals)):
                if self.latency(_after(layout, removals[:needed])) <= config.target_ms:
                    return removals[:needed]
            return removals
        if latency < config.target_ms * (1 - config.slack):
            copies = [Action("copy", w.action.blocks) for w in reversed(weighed) if w.score_lost > 0]
            fitting = [action for action in copies if self.latency(apply(layout, action)) <= config.target_ms]
            return _independent(fitting, config.copies)
        return []

    # Files ----------------------------------------------------------------------------------------------------------

    def _write_round(self, number: int, unet: UNet) -> None:
        directory = self.root / f"round-{number}"
        save_tensors(directory / "unet.safetensors", unet.state_dict())
        write_json(directory / "layout.json", asdict(unet.layout))

    def _resume(self, supernet: UNet) -> tuple[UNet, int]:
        """The last round that was written whole, or the supernet."""
        numbers = [int(path.parent.name.split("-")[1]) for path in self.root.glob("round-*/layout.json")]
        if not numbers:
            return supernet, 0
        number = max(numbers)
        unet = read_round(self.root / f"round-{number}")
        return unet, number


def read_round(directory: Path) -> UNet:
    """The network that a round ended with."""
    path = directory / "layout.json"
    layout = read_json(path, "a UNet's layout", "evolve again")
    if (found := out_of_bounds(layout)) is not None:
        raise ArtifactError(f"'{path}': {found}; evolve again.")
    unet = UNet(parse_config(UNetLayout, layout, str(path)))
    weights = directory / "unet.safetensors"
    try:
        unet.load_state_dict(load_tensors(weights)[0])
    except RuntimeError as error:
        raise ArtifactError(f"'{weights}' doesn't hold the weights of '{path}' ({error}); evolve again.") from error
    return unet


def read_decisions(root: Path) -> list[dict[str, Any]]:
    """Every round's decision, in order; a round decided twice (after a kill) counts with its last entry."""
    path = root / "decisions.jsonl"
    entries = {}
    for entry in _read_lines(path):
        number = entry.get("round")
        if not isinstance(number, int):
            raise ArtifactError(f"'{path}' has a line without the number of its round; delete the line.")
        entries[number] = entry
    return list(entries.values())


def _independent(ordered: Sequence[Action], count: int) -> list[Action]:
    """The first `count` actions that touch different stages, since an action renumbers the blocks of its stage."""
    chosen: list[Action] = []
    touched: set[str] = set()
    for action in ordered:
        prefixes = {block.rsplit(".", 2)[0] for block in action.blocks}
        if len(chosen) < count and not prefixes & touched:
            chosen.append(action)
            touched |= prefixes
    return chosen


def _after(layout: UNetLayout, chosen: Sequence[Action]) -> UNetLayout:
    for action in chosen:
        layout = apply(layout, action)
    return layout


class _Weighing(BaseModel):
    """What is read of a line: the score of the network without what an action removes."""

    action: str
    score: float


def _read_weighings(path: Path) -> dict[str, float]:
    """Scores by the action they were measured behind; "nothing" is the network as it is."""
    what, mend = "the scores of an evolution's actions", "delete it to weigh them again"
    return {one.action: one.score for one in validated(list[_Weighing], _read_lines(path), f"'{path}'", what, mend)}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines but for those that a kill cut short."""
    if not path.exists():
        return []
    what, mend = "a line of an evolution", "delete the line"
    entries = []
    for number, line in enumerate(read_text(path, "the lines of an evolution", "evolve again").splitlines(), start=1):
        if line.endswith("}"):
            where = f"'{path}' line {number}"
            entries.append(validated(dict[str, Any], parse_json(line, where, what, mend), where, what, mend))
    return entries


def _append(path: Path, entry: dict[str, Any]) -> None:
    """Add a line; a line that a kill cut short is ended first, so that it spoils none but itself."""
    cut = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as log:
        log.write(("\n" if cut else "") + json.dumps(entry) + "\n")
