"""An evolved layout against other ways to the same latency, each trained on as many pictures from the same supernet.

    sfmobile train evolve models/recipes/glyph-64 --run RUN --device iphone-14-pro
    python benchmarks/evolution.py models/recipes/glyph-64 --run RUN -o benchmarks/results/evolution

The others: a hand-written layout (SnapFusion's moves), every stage narrower, blocks removed at random. All start from
the weights that the supernet had behind its robust training. Pictures are judged on compositions that neither the
training nor the evolution's choices saw.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from shrink import narrow, random_removal, removals_to, uniform_shrinking

from sfmobile.bench.machine import describe_machine
from sfmobile.cli import train_evolve
from sfmobile.cli.console import note, print_table
from sfmobile.evaluate.agreement import Agreement
from sfmobile.evaluate.evaluation import DUAL_ENCODER
from sfmobile.evaluate.metrics.frechet import DistanceMeter
from sfmobile.evaluate.metrics.memorisation import as_float
from sfmobile.evaluate.prompt_sets import distribution_prompts, held_out_prompts, kind_shares
from sfmobile.files import read_json, write_json
from sfmobile.nets.unet import UNet
from sfmobile.train.config import read_config
from sfmobile.train.evolve.evolution import read_decisions, read_round
from sfmobile.train.evolve.mutation import mutate
from sfmobile.train.evolve.plot import block_counts
from sfmobile.train.evolve.run import EvolutionRun, EvolutionSettings, Observers
from sfmobile.train.network_sampler import Sampler, network_sampler
from sfmobile.train.pictures import Pictures, PicturesConfig
from sfmobile.train.plan import PlanRun
from sfmobile.train.pretrained.efficientnet_lite import EfficientNetLite0

EVOLVED = "evolved"
FEATURE_SIZE = 64


@dataclass(frozen=True)
class Test:
    """Compositions that took no part in training or choosing, and what measures pictures of them."""

    agreement: Agreement
    distance: DistanceMeter
    features: EfficientNetLite0

    def measure(self, sampler: Sampler) -> dict[str, float]:
        """Agreement and Fréchet distance of a sampler's pictures."""
        pictures = self.agreement.pictures(sampler)
        distance = self.distance.measure(of(self.features, pictures))
        return {
            "agreement": self.agreement.of(pictures),
            "fd": distance.fd,
            "fd_floor": distance.fd_floor,
            "pictures": len(pictures),
        }


@torch.no_grad()
def of(features: EfficientNetLite0, pictures: torch.Tensor) -> torch.Tensor:
    """Feature vectors of pictures."""
    return torch.cat([features(as_float(part)) for part in torch.split(pictures, 32)])


def contenders(run: EvolutionRun, supernet: UNet, target_ms: float, hand_written: str, seeds: int) -> dict[str, UNet]:
    """The other networks at the target's latency, with the supernet's weights as far as they go."""
    layout = run.run.unet_layout(hand_written)
    network = supernet
    for action in removals_to(supernet.layout, layout):
        network = mutate(network, action, name=layout.name)
    made = {f"hand-written ({layout.name})": network}
    shrunk = uniform_shrinking(supernet.layout, run.latency, target_ms)
    made["uniform shrinking"] = narrow(supernet, shrunk)
    for seed in range(seeds):
        network = supernet
        for action in random_removal(supernet.layout, run.latency, target_ms, seed):
            network = mutate(network, action, name=f"random-{seed}")
        made[f"random removal {seed + 1}"] = network
    return made


def sampler(run: EvolutionRun, unet: UNet) -> Sampler:
    """Pictures as the evolution scored them."""
    settings = run.settings
    shape = run.pool.latents.shape
    return network_sampler(
        run.text_encoder,
        unet.eval(),
        run.decoder,
        run.schedule(unet.layout),
        run.judge.encode,
        steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        latent_shape=(shape[1], shape[2], shape[3]),
        scaling_factor=run.run.pool_record(settings.pool).scaling_factor,
    )


def open_test(plan: Path, run: EvolutionRun, cache: Path, count: int) -> Test:
    """Held-out compositions, without the evolution's own prompts."""
    selection = read_config(PicturesConfig, plan / f"{run.settings.pictures}.json")
    pool = Pictures.open(cache, selection, run.run.device).pool
    prompts = held_out_prompts(pool, count, selection.splits, 4242, selection.side)
    shares = kind_shares(prompts)
    training = distribution_prompts(pool, count, selection.splits, 4243, shares, selection.side, judge=False)
    features = EfficientNetLite0.load(cache)
    features.input_size = FEATURE_SIZE
    agreement = Agreement(
        run.judge.agreement.dual_encoder,
        run.judge.encode,
        prompts.captions,
        first_seed=1000,
        ignored=run.judge.agreement.prompts,
    )
    meter = DistanceMeter(of(features, prompts.pictures), of(features, training.pictures), "EffNetLite0")
    return Test(agreement, meter, features)


def compare(run: EvolutionRun, test: Test, hand_written: str, seeds: int, out: Path) -> list[dict[str, Any]]:
    """Train and measure each contender; what `out` already holds is kept."""
    settings = run.settings
    result = read_json(run.root / "result.json", "an evolution's result", "run `sfmobile train evolve` first")
    supernet = run.supernet()
    run.fine_tune(supernet, 0)
    decisions = read_decisions(run.root)
    # What the evolved network was trained for behind the robust training that all share.
    steps = settings.round.steps * (len(decisions) - 1) + settings.finish.steps
    loop = replace(settings.finish, steps=steps)
    networks = {"supernet (not at the target)": supernet, EVOLVED: read_round(run.root / f"round-{len(decisions)}")}
    networks |= contenders(run, supernet, result["target_ms"], hand_written, seeds)
    path = out / "comparison.json"
    rows: list[dict[str, Any]] = read_json(path, "a comparison", "delete it")["rows"] if path.exists() else []
    for name, network in networks.items():
        if any(row["name"] == name for row in rows):
            continue
        if name == EVOLVED:
            run.train(network, settings.finish, "finish", block_dropout=0.0)
        elif network is not supernet:
            run.train(network, loop, f"compare-{name.replace(' ', '-')}", block_dropout=0.0)
        row = {
            "name": name,
            "latency_ms": run.latency(network.layout),
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "blocks": block_counts(network.layout),
            "channels": [stage.channels for stage in network.layout.down],
            "steps": 0 if network is supernet else steps,
            "score on the evolution's prompts": run.score(network),
            **test.measure(sampler(run, network)),
        }
        rows.append(row)
        note(f"{name}: {row['latency_ms']:.4g} ms, agreement {row['agreement']:.4f}, FD {row['fd']:.1f}")
        machine = describe_machine().model_dump(mode="json")
        record = {"target_ms": result["target_ms"], "machine": machine, "rows": rows}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record, indent=1)
    return rows


def plot(rows: list[dict[str, Any]], target: float, picture: Path) -> None:
    """Agreement over latency, a point a contender."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for row in rows:
        evolved = row["name"] == EVOLVED
        axes.scatter(row["latency_ms"], row["agreement"], s=60, color="#c44e52" if evolved else "#4878a8", zorder=3)
        axes.annotate(
            f"{row['name']}\n{row['parameters'] / 1e6:.1f} M",
            (row["latency_ms"], row["agreement"]),
            textcoords="offset points",
            xytext=(7, -4),
            fontsize=8,
        )
    axes.axvline(target, color="black", linestyle=":", linewidth=1)
    axes.margins(x=0.4, y=0.15)
    axes.grid(alpha=0.3)
    axes.set_xlabel("estimated ms a UNet call")
    axes.set_ylabel("agreement on held-out compositions (cosine)")
    axes.set_title("Ways to the same latency, the same training each")
    figure.savefig(picture, metadata={"Software": ""})


def show(rows: list[dict[str, Any]]) -> None:
    """The table."""
    print_table(
        "Ways to the same latency",
        ("", "latency", "parameters", "ResNets + attentions", "widths", "steps", "agreement", "FD-EffNetLite0"),
        [
            (
                row["name"],
                f"{row['latency_ms']:.3f} ms",
                f"{row['parameters'] / 1e6:.2f} M",
                " ".join(f"{resnets}+{attentions}" for _, resnets, attentions in row["blocks"]),
                "/".join(map(str, row["channels"])),
                str(row["steps"]),
                f"{row['agreement']:.4f}",
                f"{row['fd']:.1f}",
            )
            for row in rows
        ],
        text_columns=(0, 3, 4),
        caption=f"{rows[0]['pictures']} pictures each. FD of real training pictures: {rows[0]['fd_floor']:.1f}.",
    )


def main() -> None:
    """Train, measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--run", type=Path, required=True, help="where `sfmobile train evolve` ran")
    parser.add_argument("--name", default="evolution", help="the settings file's name, as given to train evolve")
    parser.add_argument("--table", type=Path, help="lookup table [lookup.json in the run]")
    parser.add_argument("--device", help="device whose estimate fills the table")
    parser.add_argument("--blocks", type=Path, help="block packages by content hash")
    parser.add_argument("--cache", type=Path, required=True, help="sprites and metric weights")
    parser.add_argument("--judge", type=Path, default=DUAL_ENCODER)
    parser.add_argument("--hand-written", default="glyph-64-efficient", help="a layout by name")
    parser.add_argument("--random", type=int, default=1, help="how many random removals")
    parser.add_argument("--pictures", type=int, default=192)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    settings = read_config(EvolutionSettings, given.plan / f"{given.name}.json")
    run = PlanRun(given.plan, given.run, given.cache, cpu=True).run
    table = train_evolve.open_table(
        run, settings, given.table or given.run / "lookup.json", None, given.device, given.blocks
    )
    judge = train_evolve.open_judge(run, settings, given.plan, given.cache, given.judge)
    evolution = EvolutionRun(run, given.name, settings, judge, table.latency, Observers(told=note))
    test = open_test(given.plan, evolution, given.cache, given.pictures)
    rows = compare(evolution, test, given.hand_written, given.random, given.output)
    show(rows)
    plot(rows, float(read_decisions(evolution.root)[0]["target_ms"]), given.output / "comparison.png")


if __name__ == "__main__":
    main()
