"""Stable Diffusion XL base at full size, random weights: export, parity, execution, and the usual way beside it.

    python -m benchmarks.sdxl                                every stage; 45 minutes of two cores and 30 GB of disk
    python -m benchmarks.sdxl --stage export-unet lean-64    some of them, added to the rows that are there
    python -m benchmarks.sdxl --table                        print the table

export-…   `sfmobile export` of one component, 6 bits, split-einsum; the UNet first with an empty cache, then again, and
           in chunks. Watched from outside: seconds, and memory, anonymous and of mapped files apart.
parity-…   one call of our network and of diffusers' or transformers', fp32, each layer's weights read when its turn
           comes and dropped behind it: 10 GB of them never stand in memory.
lean-…     one call of the exported UNet in the `mil` runtime with --lean, at 64x64 and 128x128 latents, batch 1.
recipe     `sfmobile compress search` for an average of 4.04 bits.
exact-…    the same at fp16 weights and 64x64 latents, in both evaluations, against the network: the gates.
usual      diffusers' UNet in fp32, `torch.jit.trace`, `ct.convert`: stopped where it passes --most-memory.

Each stage is a process of its own. Exit code 1 if a parity or an exactness is below its gate.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))
from full_checkpoint import CACHE, XL_UNET, full_xl_checkpoint
from process_tree import run_measured

if TYPE_CHECKING:
    import torch
    from torch import nn

RESULTS = Path(__file__).with_name("results") / "sdxl.json"
GATES = {"parity": 90.0, "fp32": 90.0, "fp16": 65.0}
BITS, CHUNKS = 6, 2
# Of Apple's published SDXL packages for phones.
AVERAGE_BITS = 4.04
SEARCH = (
    "--prompt", "a photo of an astronaut riding a horse on mars", "--steps", "2", "--probes", "1", "--guidance", "5",
    "--latent-size", "32x32",
)  # fmt: skip
DEVICES = ("iphone-14-pro", "iphone-15-pro", "iphone-16-pro")


def main() -> int:
    """Command line; 1 if a gate is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", nargs="+", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--most-memory", type=float, default=10.0, help="GB of anonymous memory for the usual way")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--output", type=Path, default=RESULTS, help=f"default {RESULTS}")
    parser.add_argument("--table", action="store_true", help="print the file's rows and measure nothing")
    parser.add_argument("--alone", choices=list(STAGES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        print(table(json.loads(options.output.read_text())["rows"]))
        return 0
    if options.alone:
        print(json.dumps(STAGES[options.alone](options)))
        return 0
    full_xl_checkpoint(options.cache)
    from sfmobile.bench.machine import describe_machine, tool_versions

    machine = {"machine": describe_machine().model_dump(mode="json", exclude_none=True), "tools": tool_versions()}
    for name in options.stage:
        measured = name.startswith("export") or name == "recipe"
        if measured:
            row = STAGES[name](options)
        else:
            command = [sys.executable, __file__, "--alone", name, "--cache", options.cache]
            ran = run_measured([*command, "--most-memory", str(options.most_memory)])
            row = {
                **json.loads(ran.output.splitlines()[-1]),
                "process_seconds": round(ran.seconds, 1),
                "peak_anonymous_bytes": ran.peak_anonymous,
                "peak_file_bytes": ran.peak_file,
            }
        held = json.loads(options.output.read_text()) if options.output.is_file() else {}
        rows = {**held.get("rows", {}), name: row}
        ordered = {stage: rows[stage] for stage in STAGES if stage in rows}
        options.output.write_text(json.dumps({**machine, "rows": ordered}, indent=2) + "\n")
        print(f"{name}: {row}", file=sys.stderr)
    return int(any(not passed(name, rows[name]) for name in options.stage))


def passed(stage: str, row: Mapping[str, Any]) -> bool:
    """Whether what a stage compared is at its gate."""
    if stage.startswith("parity"):
        return bool(row["psnr_db"] >= GATES["parity"])
    if stage.startswith("exact"):
        return bool(row["fp32_db"] >= GATES["fp32"] and row["fp16_db"] >= GATES["fp16"])
    return True


# Export


def export(
    options: argparse.Namespace, folder: str, components: tuple[str, ...], *more: str, fresh: bool = False
) -> dict[str, Any]:
    """One export into an empty folder, with a cache of this benchmark's own."""
    cache, bundle = options.cache / "sdxl-cache", options.cache / folder
    if fresh:
        shutil.rmtree(cache, ignore_errors=True)
    shutil.rmtree(bundle, ignore_errors=True)
    os.environ["SFMOBILE_CACHE"] = str(cache)
    command = [sys.executable, "-m", "sfmobile", "export", options.cache / "sdxl", "-o", bundle, "--no-golden"]
    wanted = [argument for name in components for argument in ("--component", name)]
    ran = run_measured([*command, "--json", "--attention", "split-einsum", "--guidance-batch", "1", *wanted, *more])
    made = json.loads(ran.output)
    return {
        "seconds": round(ran.seconds, 1),
        "processor_seconds": round(ran.processor_seconds, 1),
        "peak_anonymous_bytes": ran.peak_anonymous,
        "peak_file_bytes": ran.peak_file,
        "components": {
            name: {key: made["components"][name][key] for key in ("parameters", "bytes", "seconds")}
            for name in components
        },
        "memory": made["memory"],
    }


def _six(folder: str, components: tuple[str, ...], *more: str, fresh: bool = False) -> Callable[..., dict[str, Any]]:
    return lambda options: export(options, folder, components, "--bits", str(BITS), *more, fresh=fresh)


OTHERS = ("text_encoder", "text_encoder_2", "decoder", "encoder")
SMALL = ("--latent-size", "64")


# Parity with diffusers and transformers


@contextmanager
def streamed(net: nn.Module, read: Callable[[str], torch.Tensor]) -> Iterator[nn.Module]:
    """`net`, built on the meta device, with each module's weights read as float32 for its call and then dropped."""
    from torch import nn

    handles = []

    def fill(prefix: str) -> Callable[..., None]:
        def hook(module: nn.Module, _inputs: object) -> None:
            for name in list(module._parameters):
                if module._parameters[name] is not None:
                    weight = read(f"{prefix}{name}").float()
                    module._parameters[name] = nn.Parameter(weight, requires_grad=False)

        return hook

    def drop(module: nn.Module, _inputs: object, _output: object) -> None:
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(weight.to("meta"), requires_grad=False)

    for name, module in net.named_modules():
        if module._parameters:
            handles.append(module.register_forward_pre_hook(fill(f"{name}." if name else "")))
            handles.append(module.register_forward_hook(drop))
    try:
        yield net.eval()
    finally:
        for handle in handles:
            handle.remove()


def stored(folder: Path) -> Callable[[str], torch.Tensor]:
    """The tensors of a component's shards, by name, mapped."""
    from sfmobile.checkpoint.safetensors_file import SafetensorsFile

    files = [SafetensorsFile(path) for path in sorted(folder.glob("*.safetensors"))]
    places = {name: file for file in files for name in file}
    return lambda name: places[name][name]


def seeded(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal values."""
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unet_inputs(size: int) -> dict[str, torch.Tensor]:
    """Inputs of our UNet, batch 1, that float16 holds: at timestep 981, of a picture that fills its size."""
    import torch

    from sfmobile.bundle.manifest import TimeEmbeddingRecord
    from sfmobile.sampling.time_embedding import sinusoid

    def waves(numbers: list[int], dimension: int) -> torch.Tensor:
        record = TimeEmbeddingRecord(dimension=dimension, flip_sin_to_cos=True, frequency_shift=0)
        return torch.from_numpy(sinusoid(numbers, record)).reshape(1, -1, 1, 1)

    sizes = [8 * size, 8 * size, 0, 0, 8 * size, 8 * size]
    given = {
        "latents": seeded(1, 4, size, size),
        "time_embedding": waves([981], XL_UNET["block_out_channels"][0]),
        "encoder_hidden_states": seeded(1, XL_UNET["cross_attention_dim"], 1, 77, seed=1),
        "added_embedding": torch.cat([seeded(1, 1280, 1, 1, seed=2), waves(sizes, 256)], dim=1),
    }
    return {name: value.half().float() for name, value in given.items()}


def our_unet(cache: Path, size: int) -> torch.Tensor:
    """What our network makes of `unet_inputs`, fp32."""
    import torch

    from sfmobile.checkpoint.directory import Checkpoint

    checkpoint = Checkpoint.open(cache / "sdxl")
    weights = checkpoint.state_dict("unet")
    with torch.inference_mode(), streamed(checkpoint.unfilled("unet"), weights.__getitem__) as net:
        found: torch.Tensor = net(**unet_inputs(size))
    return found


def parity_unet(options: argparse.Namespace) -> dict[str, Any]:
    """One call at 64x64."""
    import torch
    from diffusers import UNet2DConditionModel

    from sfmobile.verify.signal import psnr

    given = unet_inputs(64)
    pooled, sizes = given["added_embedding"][:, :1280, 0, 0], torch.tensor([[512.0, 512, 0, 0, 512, 512]])
    with torch.device("meta"):
        theirs = UNet2DConditionModel.from_config(XL_UNET)
    with torch.inference_mode(), streamed(theirs, stored(options.cache / "sdxl" / "unet")) as net:
        expected = net(
            given["latents"],
            torch.tensor([981]),
            given["encoder_hidden_states"].squeeze(2).transpose(1, 2),
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
        ).sample
    return {"psnr_db": round(psnr(expected.numpy(), our_unet(options.cache, 64).numpy()), 1)}


def parity_text(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """A prompt of 20 tokens, padded."""
    import torch
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.verify.signal import psnr

    ids = torch.full((1, 77), 49407)
    ids[0, 0] = 49406
    ids[0, 1:21] = torch.randint(0, 49406, (20,), generator=torch.Generator().manual_seed(0))
    kind = CLIPTextModelWithProjection if name.endswith("2") else CLIPTextModel
    with torch.inference_mode():
        theirs = kind.from_pretrained(options.cache / "sdxl" / name, dtype=torch.float32)
        found = theirs(ids, output_hidden_states=True)
        expected = [found.hidden_states[-2].transpose(1, 2).unsqueeze(2)]
        expected += [found.text_embeds[..., None, None]] if name.endswith("2") else []
        del theirs, found
        ours = Checkpoint.open(options.cache / "sdxl").load(name)(ids.int())
    given = [ours] if isinstance(ours, torch.Tensor) else list(ours)
    levels = [psnr(one.numpy(), other.numpy()) for one, other in zip(expected, given, strict=True)]
    # The same to the bit is no number that JSON has.
    return {"psnr_db": round(min(*levels, 200.0), 1)}


def parity_autoencoder(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """A picture of 512x512; where the decoder's residual stream ends says that float16 wouldn't bear it unscaled."""
    import torch
    from diffusers import AutoencoderKL

    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.verify.signal import psnr

    largest: list[float] = []

    def see(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        largest.append(float(output.abs().max()))

    decodes = name == "decoder"
    given = seeded(1, 4, 64, 64) if decodes else seeded(1, 3, 512, 512).clamp(-1, 1)
    with torch.inference_mode():
        theirs = AutoencoderKL.from_pretrained(options.cache / "sdxl" / "vae", torch_dtype=torch.float32)
        for block in theirs.decoder.up_blocks:
            block.register_forward_hook(see)
        expected = theirs.decode(given).sample if decodes else theirs.encode(given).latent_dist.parameters
        del theirs
        found = Checkpoint.open(options.cache / "sdxl").load(name)(given)
    row = {"psnr_db": round(psnr(expected.numpy(), found.numpy()), 1)}
    return {**row, "largest_activation": max(largest)} if largest else row


# Execution of the packages


def lean(options: argparse.Namespace, folder: str, precision: str) -> dict[str, Any]:
    """Seconds of one call of an exported UNet, opening it included apart."""
    import numpy as np

    from sfmobile.bundle.directory import Bundle
    from sfmobile.runtime.mil.runtime import MilRuntime

    bundle = Bundle.open(options.cache / folder, "sizes")
    start = time.perf_counter()
    with MilRuntime(bundle, precision, lean=True).load("unet") as unet:  # type: ignore[arg-type]
        opened = time.perf_counter()
        given = {name: value.half().numpy() for name, value in unet_inputs(bundle.manifest.latents.height).items()}
        (found,) = unet.predict(given).values()
    done = time.perf_counter()
    assert np.isfinite(found).all()
    return {"open_seconds": round(opened - start, 1), "call_seconds": round(done - opened, 1), "output": found}


def lean_row(options: argparse.Namespace, folder: str) -> dict[str, Any]:
    """`lean` in fp32 without its output."""
    row = lean(options, folder, "fp32")
    return {key: value for key, value in row.items() if key != "output"}


def exact_unet(options: argparse.Namespace) -> dict[str, Any]:
    """The UNet's package of fp16 weights against our network, which `parity-unet` holds to diffusers'."""
    from sfmobile.verify.signal import psnr

    expected = our_unet(options.cache, 64).numpy()
    rows = {precision: lean(options, "sdxl-fp16-64", precision)["output"] for precision in ("fp32", "fp16")}
    return {f"{precision}_db": round(psnr(expected, output), 1) for precision, output in rows.items()}


def exact_decoder(options: argparse.Namespace) -> dict[str, Any]:
    """The decoder's package of fp16 weights against our network: in fp16 too, where the stream would be infinite."""
    import torch

    from sfmobile.bundle.directory import Bundle
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.runtime.mil.runtime import MilRuntime
    from sfmobile.verify.signal import psnr

    latents = seeded(1, 4, 64, 64).half()
    with torch.inference_mode():
        expected = Checkpoint.open(options.cache / "sdxl").load("decoder")(latents.float()).numpy()
    row = {}
    for precision in ("fp32", "fp16"):
        with MilRuntime(Bundle.open(options.cache / "sdxl-fp16-64-decoder", "sizes"), precision).load("decoder") as one:  # type: ignore[arg-type]
            (found,) = one.predict({"latents": latents.numpy()}).values()
        row[f"{precision}_db"] = round(psnr(expected, found), 1)
    return row


def estimates(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of one UNet call on devices, estimated, of both sizes; the linter's findings; the phones it fits."""
    from sfmobile.inspect.inspection import inspect

    rows: dict[str, Any] = {}
    for size, folder in ((64, "sdxl-6-64"), (128, "sdxl-6-128")):
        for device in DEVICES:
            found = inspect(options.cache / folder, device=device)
            assert found.time is not None
            rows[f"{device}, {size}x{size}"] = {one.component: round(one.call_ms) for one in found.time.components}
        rows[f"fit, {size}x{size}"] = found.fit
        rows[f"findings, {size}x{size}"] = sorted({one.rule for one in found.severe("note")})
    return rows


# A recipe of mixed bits


def recipe(options: argparse.Namespace) -> dict[str, Any]:
    """`sfmobile compress search` at the average of Apple's published example, on small latents and few steps; what it
    finds is exported."""
    file = options.cache / "sdxl-recipe.json"
    search = [sys.executable, "-m", "sfmobile", "compress", "search", options.cache / "sdxl", "-o", file, "--json"]
    ran = run_measured([*search, "--average-bits", str(AVERAGE_BITS), *SEARCH])
    (found,) = json.loads(ran.output)["components"]
    row = export(options, "sdxl-recipe", ("unet",), *SMALL, "--recipe", str(file))
    return {
        "seconds": round(ran.seconds, 1),
        "processor_seconds": round(ran.processor_seconds, 1),
        "peak_anonymous_bytes": ran.peak_anonymous,
        "peak_file_bytes": ran.peak_file,
        "phases": {name: round(seconds, 1) for name, seconds in found["seconds"].items()},
        "recipe": found["recipe"],
        "uniform": found["uniform"],
        "exported_bytes": row["components"]["unet"]["bytes"],
    }


# The usual way


def usual(options: argparse.Namespace) -> dict[str, Any]:
    """Trace and convert diffusers' UNet as the peers' scripts do, until the memory allowed is passed."""
    import threading

    from sfmobile.export.quiet import quiet

    reached: list[str] = ["loading the weights as float32"]
    start = time.perf_counter()

    def watch() -> None:
        while True:
            status = Path("/proc/self/status").read_text(encoding="ascii")
            held = int(status.split("RssAnon:")[1].split()[0]) * 1024
            if held > options.most_memory * 1e9:
                row = {"stopped_at": reached[-1], "anonymous_bytes": held}
                print(json.dumps({**row, "seconds": round(time.perf_counter() - start, 1)}), flush=True)
                os._exit(0)
            time.sleep(0.05)

    threading.Thread(target=watch, daemon=True).start()
    with quiet():
        import coremltools as ct
        import numpy as np
        import torch
        from diffusers import UNet2DConditionModel

        net = UNet2DConditionModel.from_pretrained(options.cache / "sdxl" / "unet", torch_dtype=torch.float32).eval()

        class Positional(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = net

            def forward(
                self, sample: torch.Tensor, timestep: torch.Tensor, states: torch.Tensor, text: torch.Tensor,
                sizes: torch.Tensor,
            ) -> torch.Tensor:  # fmt: skip
                added = {"text_embeds": text, "time_ids": sizes}
                return self.net(sample, timestep, states, added_cond_kwargs=added, return_dict=False)[0]

        examples = {
            "sample": torch.randn(1, 4, 64, 64),
            "timestep": torch.full((1,), 500.0),
            "encoder_hidden_states": torch.randn(1, 77, 2048),
            "text_embeds": torch.randn(1, 1280),
            "time_ids": torch.zeros(1, 6),
        }
        reached.append("tracing")
        with torch.no_grad():
            traced = torch.jit.trace(Positional(), tuple(examples.values()))
        reached.append("converting")
        model = ct.convert(
            traced,
            inputs=[ct.TensorType(name=name, shape=value.shape, dtype=np.float16) for name, value in examples.items()],
            outputs=[ct.TensorType(name="noise_pred", dtype=np.float16)],
            minimum_deployment_target=ct.target.iOS17,
            skip_model_load=True,
        )
        reached.append("saving")
        model.save(str(options.cache / "sdxl-usual.mlpackage"))
    return {"stopped_at": None, "seconds": round(time.perf_counter() - start, 1)}


STAGES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "export-unet": _six("sdxl-6-128", ("unet",), fresh=True),
    "export-unet-again": _six("sdxl-6-128", ("unet",)),
    "export-unet-chunks": _six("sdxl-6-chunks", ("unet",), "--chunks", str(CHUNKS)),
    "export-others": _six("sdxl-6-others", OTHERS),
    "export-unet-64": _six("sdxl-6-64", ("unet",), *SMALL),
    "export-fp16-64": lambda options: export(options, "sdxl-fp16-64", ("unet",), "--bits", "none", *SMALL),
    "export-fp16-64-decoder": lambda options: export(
        options, "sdxl-fp16-64-decoder", ("decoder",), "--bits", "none", *SMALL
    ),
    "parity-unet": parity_unet,
    "parity-text_encoder": lambda options: parity_text(options, "text_encoder"),
    "parity-text_encoder_2": lambda options: parity_text(options, "text_encoder_2"),
    "parity-decoder": lambda options: parity_autoencoder(options, "decoder"),
    "parity-encoder": lambda options: parity_autoencoder(options, "encoder"),
    "exact-unet": exact_unet,
    "exact-decoder": exact_decoder,
    "lean-64": lambda options: lean_row(options, "sdxl-6-64"),
    "lean-128": lambda options: lean_row(options, "sdxl-6-128"),
    "estimate": estimates,
    "recipe": recipe,
    "usual": usual,
}


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = ["| stage | seconds | anonymous memory at the peak | mapped files | what |", "|---|---:|---:|---:|---|"]
    for name, row in rows.items():
        seconds = row.get("seconds", row.get("process_seconds"))
        memory = f"{row['peak_anonymous_bytes'] / 1e9:.2f} GB | {row['peak_file_bytes'] / 1e9:.2f} GB"
        lines.append(f"| {name} | {seconds} | {memory} | {said(row)} |")
    return "\n".join(lines)


def said(row: Mapping[str, Any]) -> str:
    """What a stage found, in a few words."""
    if "components" in row:
        return ", ".join(f"{name} {part['bytes'] / 1e6:.0f} MB" for name, part in row["components"].items())
    left_out = {"seconds", "process_seconds", "peak_anonymous_bytes", "peak_file_bytes"}
    return "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in row.items() if key not in left_out)


if __name__ == "__main__":
    sys.exit(main())
