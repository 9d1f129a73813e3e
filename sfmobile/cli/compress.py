"""`sfmobile compress`: recipes of mixed bits, searched for and applied."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfmobile.cli import console, engine, export, recipe_report
from sfmobile.errors import UsageError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from sfmobile.bundle.manifest import ComponentName, Manifest
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.compress.recipe import Recipe
    from sfmobile.export.options import ExportOptions, Target
    from sfmobile.recipes.search import Goal, Phase, SearchOptions, SearchResult
    from sfmobile.recipes.signal import Runs

DEFAULT_PROMPTS = (
    "a red apple",
    "a yellow star on a blue background",
    "two green fish and an orange cat",
    "a photo of an astronaut riding a horse on mars",
)
DEFAULT_BITS = 6
DEFAULT_TARGET: Target = "ios17"
PHASES: dict[str, str] = {
    "reference": "running the reference",
    "sensitivities": "measuring sensitivities",
    "palettizing": "palettizing every layer in every way",
    "uniform bits": "running with uniform bits",
    "recipe": "running with recipes",
    "curve": "running for the plot",
}


def search(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A diffusers-format directory, or a Hugging Face Hub id.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The recipe to write, JSON.")],
    signal: Annotated[
        float | None, typer.Option("--signal", metavar="DB", help="The smallest recipe with at least this PSNR.")
    ] = None,
    same_signal_as: Annotated[
        int | None,
        typer.Option("--same-signal-as", metavar="BITS", help="... with that of uniform BITS; 6 if nothing is asked."),
    ] = None,
    same_size_as: Annotated[
        int | None, typer.Option("--same-size-as", metavar="BITS", help="The best recipe of uniform BITS' size.")
    ] = None,
    component: Annotated[
        list[export.ComponentChoice] | None,
        typer.Option("--component", help="What to search for; may be repeated. The UNet without it."),
    ] = None,
    target: Annotated[
        export.TargetChoice, typer.Option(help="ios18 adds 3 bits and lookup tables per group of channels.")
    ] = export.TargetChoice.ios17,
    group_size: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Channels per group to try (ios18); may be repeated.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", help="A prompt to run; may be repeated. Four of ours without it.")
    ] = None,
    negative: Annotated[str, typer.Option("--negative", help="The negative prompt.")] = "",
    steps: Annotated[int | None, typer.Option("--steps", help="DDIM steps; the model's default without it.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the noise, plus one for each further prompt.")] = 0,
    guidance: Annotated[float | None, typer.Option("--guidance", help="Guidance scale; the model's default.")] = None,
    latent_size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Latent height and width; the checkpoint's own without it.")
    ] = None,
    calibration_prompts: Annotated[
        int | None, typer.Option(metavar="N", help="Prompts to take sensitivities from; all without it.")
    ] = None,
    probes: Annotated[int, typer.Option(metavar="N", help="Backward passes through each of those runs.")] = 6,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.png", help="Plot sizes and signals (more runs).")
    ] = None,
    json_output: engine.JsonOption = False,
) -> None:
    """Search how many bits each layer needs: the smallest recipe for a signal, or the best one for a size.

    The signal is the PSNR of the latents that real prompts end with, against those of the weights as they are.
    """
    from sfmobile.checkpoint.hub import open_checkpoint
    from sfmobile.recipes.plot import check_plotting, plot_sizes
    from sfmobile.recipes.search import SearchOptions

    options = SearchOptions(
        goal=choose_goal(signal, same_signal_as, same_size_as),
        target=target.value,
        group_sizes=check_group_sizes(group_size, target),
        prompts=at_least_one("--calibration-prompts", calibration_prompts),
        probes=at_least_one("--probes", probes) or 1,
        seed=seed,
        curve=plot is not None,
    )
    check_writable(output)
    if plot is not None:
        check_writable(plot)
        check_plotting()
    with console.status(f"Opening {source}"):
        checkpoint = open_checkpoint(source)
    prompts = tuple(prompt or DEFAULT_PROMPTS)
    size = None if latent_size is None else engine.parse_size(latent_size)
    runs = make_runs(checkpoint, prompts, negative, seed, steps, guidance, size)
    names: list[ComponentName] = [choice.value for choice in component or [export.ComponentChoice.unet]]
    results = run_search(checkpoint, names, runs, options)
    recipe = make_recipe(checkpoint, results, runs, options)
    recipe.write(output)
    if plot is not None:
        plot_sizes(results, plot, f"{checkpoint.name}: {len(prompts)} prompts, {runs.steps} steps, torch fp32")
        console.note(f"Plot: {plot}")
    if json_output:
        console.print_json({"recipe": str(output), "components": [recipe_report.record(result) for result in results]})
    else:
        recipe_report.show(results)
        console.note(f"Recipe: {output} (sfmobile compress apply SOURCE --recipe {output} -o BUNDLE)")


def apply(
    source: Annotated[
        str, typer.Argument(metavar="BUNDLE|SOURCE", help="A bundle to store anew, or a checkpoint to export.")
    ],
    recipe: Annotated[Path, typer.Option("--recipe", metavar="FILE", help="From `sfmobile compress search`.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="BUNDLE", help="The bundle directory to make.")],
    checkpoint_dir: engine.SourceOption = None,
    target: Annotated[
        export.TargetChoice | None, typer.Option(help="The earliest system to run on; the bundle's, or ios17.")
    ] = None,
    golden: Annotated[bool, typer.Option("--golden/--no-golden", help="Record a reference run for tests.")] = True,
    json_output: engine.JsonOption = False,
) -> None:
    """Store a bundle's weights, or export a checkpoint, as a recipe says.

    A bundle is built again from its checkpoint with the options it was made with: lookup tables made from lookup
    tables would add up their errors.
    """
    from sfmobile.bundle.directory import MANIFEST_FILE
    from sfmobile.checkpoint.hub import open_checkpoint
    from sfmobile.compress.recipe import Recipe
    from sfmobile.export.options import ExportOptions, parse_target

    read = Recipe.read(recipe)
    wanted = None if target is None else parse_target(target.value)
    if (Path(source) / MANIFEST_FILE).is_file():
        bundle = engine.open_bundle(Path(source))
        checkpoint = engine.find_source(bundle, checkpoint_dir)
        export.run_export(
            checkpoint,
            bundle.manifest.source.id if checkpoint_dir is None else str(checkpoint_dir),
            output,
            options_of(bundle.manifest, read, wanted),
            golden,
            json_output,
        )
        return
    if checkpoint_dir is not None:
        raise UsageError(f"--source names the checkpoint of a bundle, and '{source}' is no bundle; leave it out.")
    with console.status(f"Opening {source}"):
        checkpoint = open_checkpoint(source)
    export.run_export(
        checkpoint, source, output, ExportOptions(target=wanted or DEFAULT_TARGET, recipe=read), golden, json_output
    )


def choose_goal(signal: float | None, same_signal_as: int | None, same_size_as: int | None) -> Goal:
    """The one thing that was asked for. Raises `UsageError` for two of them, or bits that can't be stored."""
    from sfmobile.compress.recipe import check_bits
    from sfmobile.recipes.search import Goal

    if sum(wish is not None for wish in (signal, same_signal_as, same_size_as)) > 1:
        raise UsageError("--signal, --same-signal-as and --same-size-as exclude each other; give one.")
    if signal is not None:
        if not 0 < signal < 200:
            raise UsageError(f"--signal {signal:g} is no PSNR a recipe can aim at; expected 0 to 200 dB, 45 say.")
        return Goal("signal", signal)
    bits = same_size_as if same_size_as is not None else same_signal_as if same_signal_as is not None else DEFAULT_BITS
    check_bits(bits)
    return Goal("size of" if same_size_as is not None else "signal of", bits)


def check_group_sizes(sizes: list[int] | None, target: export.TargetChoice) -> tuple[int, ...]:
    """`--group-size`, repeated."""
    from sfmobile.recipes.storages import GROUP_SIZES

    if sizes and target is not export.TargetChoice.ios18:
        raise UsageError(f"Lookup tables per group of channels need --target ios18, found {target.value}.")
    for size in sizes or ():
        at_least_one("--group-size", size)
    return tuple(sizes) if sizes else GROUP_SIZES


def at_least_one(option: str, number: int | None) -> int | None:
    """`number`, which must be 1 or more if it is given."""
    if number is not None and number < 1:
        raise UsageError(f"{option} {number} is impossible; expected 1 or more.")
    return number


def check_writable(path: Path) -> None:
    """Raise `UsageError` at once if a file can't be written where a long search would write it."""
    folder = path.absolute().parent
    if path.is_dir():
        raise UsageError(f"'{path}' is a directory; name a file.")
    if not folder.is_dir():
        raise UsageError(f"'{folder}' doesn't exist; make it, or write elsewhere.")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise UsageError(f"'{path}' may not be written; write elsewhere.")


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
    from sfmobile.recipes.signal import Runs
    from sfmobile.sampling.ddim import DDIM
    from sfmobile.sampling.guidance import check_scale

    count = checkpoint.scheduler.default_steps if steps is None else steps
    DDIM(checkpoint.scheduler).timesteps(count)
    scale = checkpoint.guidance_scale if guidance is None else guidance
    check_scale(scale)
    size = latent_size or checkpoint.latent_size
    checkpoint.unet_layout.check_latent_size(*size)
    return Runs(prompts, negative, seed, count, scale, size)


def run_search(
    checkpoint: Checkpoint, names: list[ComponentName], runs: Runs, options: SearchOptions
) -> list[SearchResult]:
    """Search one component after the other, with progress bars."""
    from sfmobile.recipes.search import search_component

    with console.progress() as bars:
        observer = _observer(bars)
        return [search_component(checkpoint, name, runs, options, observer) for name in dict.fromkeys(names)]


def _observer(bars: Progress) -> Any:
    from sfmobile.recipes.search import SearchObserver

    class Display(SearchObserver):
        def __init__(self) -> None:
            self._task: TaskID | None = None

        def phase(self, component: ComponentName, phase: Phase, total: int | None = None) -> None:
            if self._task is not None:
                bars.remove_task(self._task)
            self._task = bars.add_task(f"{component}: {PHASES[phase]}", total=total)

        def advance(self, units: int) -> None:
            if self._task is not None:
                bars.advance(self._task, units)

    return Display()


def make_recipe(checkpoint: Checkpoint, results: list[SearchResult], runs: Runs, options: SearchOptions) -> Recipe:
    """The recipe file's content; components that weren't searched for get `DEFAULT_BITS`."""
    from sfmobile.compress.recipe import LayerRecipe, Recipe

    figures = "; ".join(f"{result.component} {result.point.measured.final_db:.1f} dB" for result in results)
    return Recipe(
        default=LayerRecipe(bits=DEFAULT_BITS),
        components={result.component: result.recipe() for result in results},
        note=(
            f"Searched on {checkpoint.name} for {options.target}: {figures}, {len(runs.prompts)} prompts of "
            f"{runs.steps} steps at guidance {runs.guidance_scale:g}."
        ),
    )


def options_of(manifest: Manifest, recipe: Recipe, target: Target | None) -> ExportOptions:
    """The options that a bundle was exported with, and `recipe` in place of its compression."""
    from sfmobile.export.options import ExportOptions

    first = next(iter(manifest.components.values()))
    unet, decoder = manifest.components.get("unet"), manifest.components.get("decoder")
    sizes = dict.fromkeys((height, width) for height, width, _ in manifest.shapes())
    size = (manifest.latents.height, manifest.latents.width)
    return ExportOptions(
        target=manifest.target if target is None else target,
        format=first.format,
        attention=first.attention,
        recipe=recipe,
        components=tuple(manifest.components),
        latent_size=size,
        guidance_batch=manifest.guidance.batch,
        chunks=max(1, len(unet.chunks)) if unet is not None else 1,
        multifunction=unet is not None and bool(unet.functions),
        multifunction_decoder=decoder is not None and bool(decoder.functions),
        more_latent_sizes=tuple(other for other in sizes if other != size),
    )
