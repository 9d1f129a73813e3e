"""A recipe searched for: the bits of every layer of some components, with what they cost and bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfmobile.checkpoint.hub import open_checkpoint
from sfmobile.compress.recipe import LayerRecipe, Recipe, check_bits
from sfmobile.errors import UsageError
from sfmobile.observer import Observer
from sfmobile.recipes.search import PROBES, Goal, SearchOptions, SearchResult, search_component
from sfmobile.recipes.signal import Runs
from sfmobile.recipes.storages import GROUP_SIZES
from sfmobile.sampling.guidance import check_scale
from sfmobile.sampling.samplers.named import ddim_of
from sfmobile.sampling.samplers.starting import start
from sfmobile.tables import Table, as_text

if TYPE_CHECKING:
    from sfmobile.bundle.choices import ComponentName, Target
    from sfmobile.checkpoint.directory import Checkpoint

DEFAULT_PROMPTS = (
    "a red apple",
    "a yellow star on a blue background",
    "two green fish and an orange cat",
    "a photo of an astronaut riding a horse on mars",
)
# Of components that weren't searched for, and what is compared with if nothing is asked.
DEFAULT_BITS = 6


@dataclass(frozen=True)
class SearchedRecipe:
    """The recipe, and per component what it was compared with. title: on what it was searched for."""

    recipe: Recipe
    results: tuple[SearchResult, ...]
    title: str

    def record(self) -> list[dict[str, Any]]:
        """The components as JSON."""
        return [result.record() for result in self.results]

    def tables(self) -> list[Table]:
        """The components for people."""
        return [result.table() for result in self.results]

    def __str__(self) -> str:
        return as_text(self.tables())


def search_recipe(
    source: Checkpoint | Path | str,
    *,
    signal: float | None = None,
    same_signal_as: int | None = None,
    same_size_as: int | None = None,
    average_bits: float | None = None,
    component: ComponentName | Sequence[ComponentName] = (),
    target: Target = "ios17",
    group_size: int | Sequence[int] = (),
    prompt: str | Sequence[str] = (),
    negative: str = "",
    steps: int | None = None,
    seed: int = 0,
    guidance: float | None = None,
    latent_size: tuple[int, int] | None = None,
    sensitivity_prompts: int | None = None,
    probes: int = PROBES,
    curve: bool = False,
    observer: Observer | None = None,
) -> SearchedRecipe:
    """Search how many bits each layer needs: the smallest recipe for a signal, or the best one for a size.

    The signal is the PSNR of the latents that real prompts end with, against those of the weights as they are. Runs are
    walked by DDIM, whatever the checkpoint's own sampler, and without pictures for ControlNets.

    source: a diffusers-format directory, a Hugging Face Hub id, or an opened checkpoint. signal: the smallest recipe
    with at least so many dB; same_signal_as: ... with that of so many bits in every layer (6 if nothing is asked);
    same_size_as: the best recipe of their size; average_bits: the best one of so many bits a weight, 4.04 say.
    component: what to search for, the UNet without it. target: ios18 adds 3 bits and lookup tables per group of
    channels, of group_size. prompt (four of ours without it), negative, steps, seed (plus one for each further prompt),
    guidance, latent_size: the runs. sensitivity_prompts: how many of them sensitivities are taken from, all without it;
    probes: backward passes through each. curve: also measure a range of sizes, for a plot.

    Raises `UsageError` for options that make no sense, a checkpoint that doesn't draw from a prompt alone, or a size
    that can't be reached, `GateError` for a signal that can't.
    """
    options = SearchOptions(
        goal=choose_goal(signal, same_signal_as, same_size_as, average_bits),
        target=target,
        group_sizes=check_group_sizes((group_size,) if isinstance(group_size, int) else tuple(group_size), target),
        prompts=None if sensitivity_prompts is None else at_least_one("--sensitivity-prompts", sensitivity_prompts),
        probes=at_least_one("--probes", probes),
        seed=seed,
        curve=curve,
    )
    observer = observer or Observer()
    observer.start(f"Opening {source}")
    checkpoint = open_checkpoint(source)
    prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
    runs = make_runs(checkpoint, prompts or DEFAULT_PROMPTS, negative, seed, steps, guidance, latent_size)
    names = dict.fromkeys((component,) if isinstance(component, str) else component or (checkpoint.pipeline.unet,))
    results = tuple(search_component(checkpoint, name, runs, options, observer) for name in names)
    title = f"{checkpoint.name}: {len(runs.prompts)} prompts, {runs.steps} steps of DDIM, torch fp32"
    return SearchedRecipe(make_recipe(checkpoint, results, runs, options), results, title)


def choose_goal(
    signal: float | None, same_signal_as: int | None, same_size_as: int | None, average_bits: float | None = None
) -> Goal:
    """The one thing that was asked for. Raises `UsageError` for two of them, or bits that can't be stored."""
    if sum(wish is not None for wish in (signal, same_signal_as, same_size_as, average_bits)) > 1:
        raise UsageError("--signal, --same-signal-as, --same-size-as and --average-bits exclude each other; give one.")
    if average_bits is not None:
        if not 1 <= average_bits <= 16:
            raise UsageError(f"--average-bits {average_bits:g} is no number of bits of a weight; expected 1 to 16.")
        return Goal("bits", average_bits)
    if signal is not None:
        if not 0 < signal < 200:
            raise UsageError(f"--signal {signal:g} is no PSNR a recipe can aim at; expected 0 to 200 dB, 45 say.")
        return Goal("signal", signal)
    bits = same_size_as if same_size_as is not None else same_signal_as if same_signal_as is not None else DEFAULT_BITS
    check_bits(bits)
    return Goal("size of" if same_size_as is not None else "signal of", bits)


def check_group_sizes(sizes: tuple[int, ...], target: Target) -> tuple[int, ...]:
    """The group sizes to try: those given, which are for ios18."""
    if sizes and target != "ios18":
        raise UsageError(f"Lookup tables per group of channels need --target ios18, found {target}.")
    for size in sizes:
        at_least_one("--group-size", size)
    return sizes or GROUP_SIZES


def at_least_one(option: str, number: int) -> int:
    """`number`, which must be 1 or more."""
    if number < 1:
        raise UsageError(f"{option} {number} is impossible; expected 1 or more.")
    return number


def make_runs(
    checkpoint: Checkpoint,
    prompts: tuple[str, ...],
    negative: str,
    seed: int,
    steps: int | None,
    guidance: float | None,
    latent_size: tuple[int, int] | None,
) -> Runs:
    """The runs to compare. Raises `UsageError` for what can't be run."""
    count = checkpoint.default_steps if steps is None else steps
    start(ddim_of(checkpoint.sampler), count)
    scale = checkpoint.guidance_scale if guidance is None else guidance
    check_scale(scale)
    size = latent_size or checkpoint.latent_size
    checkpoint.unet_layout.check_latent_size(*size)
    return Runs(prompts, negative, seed, count, scale, size)


def make_recipe(checkpoint: Checkpoint, results: Sequence[SearchResult], runs: Runs, options: SearchOptions) -> Recipe:
    """The recipe file's content; components that weren't searched for get `DEFAULT_BITS`."""
    figures = "; ".join(f"{result.component} {result.point.measured.final_db:.1f} dB" for result in results)
    return Recipe(
        default=LayerRecipe(bits=DEFAULT_BITS),
        components={result.component: result.recipe() for result in results},
        note=(
            f"Searched on {checkpoint.name} for {options.target}: {figures}, {len(runs.prompts)} prompts of "
            f"{runs.steps} steps at guidance {runs.guidance_scale:g}."
        ),
    )
