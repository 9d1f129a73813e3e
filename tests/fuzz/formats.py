"""The formats that are fuzzed: a real file of each, how it is changed, and what reads it."""

from __future__ import annotations

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfmobile.mlpackage import schema
from tests.fuzz import mutators
from tests.fuzz.mutators import Mutator

MODEL_FILE = "program.mlpackage/Data/com.apple.CoreML/model.mlmodel"
# A file that is wrong, and what this machine or version can't do with a file that may be right.
BROKEN, BEYOND = (4,), (3, 4)


@dataclass(frozen=True)
class Format:
    """file: the one that is changed, in a folder that `prepare` fills. read: what is done with the folder.

    codes: the exit codes that a broken file of this kind may have. examples: of a short run.
    """

    file: str
    prepare: Callable[[Path], object]
    mutate: Mutator
    read: Callable[[Path], object]
    codes: tuple[int, ...] = BROKEN
    examples: int = 30


# --- bundles ---


def write_bundle(folder: Path) -> None:
    from tests.bundle.sample import write_sample

    write_sample(folder / "bundle")


def open_bundle(folder: Path) -> None:
    from sfmobile.bundle.directory import Bundle

    bundle = Bundle.open(folder / "bundle", check="sizes")
    for height, width, batch in bundle.manifest.shapes():
        bundle.for_shapes((height, width), 2 if batch == 2 else 1)
    for name in bundle.manifest.components:
        bundle.package(name)
    if bundle.manifest.golden is not None:
        for path in bundle.manifest.golden.files:
            bundle.golden(Path(path).stem)


# --- checkpoints ---


def write_checkpoint(folder: Path) -> None:
    from sfmobile.testing import write_synthetic_checkpoint
    from tests.tiny import TINY_AUTOENCODER, TINY_LATENT_SIZE, TINY_TEXT_ENCODER, TINY_UNET

    write_synthetic_checkpoint(
        folder / "checkpoint",
        unet_layout=TINY_UNET,
        text_encoder_layout=TINY_TEXT_ENCODER,
        autoencoder_layout=TINY_AUTOENCODER,
        latent_size=TINY_LATENT_SIZE,
    )


def write_shards(folder: Path) -> None:
    write_checkpoint(folder)
    unet = folder / "checkpoint" / "unet"
    stem = "diffusion_pytorch_model"
    whole = unet / f"{stem}.safetensors"
    (header,) = [json.loads(whole.read_bytes()[8 : 8 + int.from_bytes(whole.read_bytes()[:8], "little")])]
    shard = f"{stem}-00001-of-00001.safetensors"
    whole.rename(unet / shard)
    names = {name: shard for name in header if name != "__metadata__"}
    (unet / f"{whole.name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def open_checkpoint(folder: Path) -> None:
    from sfmobile.checkpoint.directory import Checkpoint
    from sfmobile.checkpoint.tokenizer import read_merges, read_vocabulary

    checkpoint = Checkpoint.open(folder / "checkpoint")
    read_merges(checkpoint.tokenizer_dir, read_vocabulary(checkpoint.tokenizer_dir))


def load_checkpoint(folder: Path) -> None:
    from sfmobile.checkpoint.directory import Checkpoint

    checkpoint = Checkpoint.open(folder / "checkpoint")
    for name in ("text_encoder", "unet", "decoder"):
        checkpoint.load(name)


def write_overlays(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    write_checkpoint(folder)
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    halves = {f"{layer}.lora_down.weight": torch.ones(4, 32), f"{layer}.lora_up.weight": torch.ones(32, 4)}
    save_file(halves | {f"{layer}.alpha": torch.tensor(2.0)}, folder / "lora.safetensors")
    save_file({"<cat>": torch.ones(2, 32)}, folder / "embedding.safetensors")


def open_with_lora(folder: Path) -> None:
    from sfmobile.checkpoint.hub import open_checkpoint

    open_checkpoint(folder / "checkpoint", lora=[folder / "lora.safetensors"]).state_dict("unet")


def open_with_embedding(folder: Path) -> None:
    from sfmobile.checkpoint.hub import open_checkpoint

    open_checkpoint(folder / "checkpoint", embedding=[folder / "embedding.safetensors"]).state_dict("text_encoder")


def write_fast_tokenizer(folder: Path) -> None:
    model = {"type": "BPE", "vocab": {"a": 0, "b</w>": 1, "ab</w>": 2, "<|startoftext|>": 3, "<|endoftext|>": 4}}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model | {"merges": ["a b</w>"]}, "added_tokens": []}))
    (folder / "tokenizer_config.json").write_text("{}")


def copy_tokenizer(folder: Path) -> None:
    from sfmobile.checkpoint import tokenizer

    tokenizer.read_tokenizer(folder)
    tokenizer.copy_tokenizer(folder, folder / "copy")


# --- ML Programs ---


def write_program(folder: Path) -> None:
    """One of each kind of operation that diffusion networks have, with palettes and literals."""
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb

    from tests.runtime.mil.programs import build_program, save_program

    chance = np.random.default_rng(0)

    def numbers(*shape: int) -> np.ndarray:
        return chance.normal(size=shape).astype(np.float16)

    def body(image: Any, ids: Any) -> Any:
        lut = np.linspace(-1, 1, 16).astype(np.float16).reshape(1, 1, 1, 1, 16, 1)
        indices = chance.integers(0, 16, (4, 3, 3, 3)).astype(np.uint8)
        weight = mb.constexpr_lut_to_dense(indices=indices.astype(ct.converters.mil.mil.types.np_uint4_dtype), lut=lut)
        x = mb.conv(x=image, weight=weight, bias=numbers(4), pad_type="custom", pad=[1, 1, 1, 1], strides=[2, 2])
        x = mb.layer_norm(x=x, axes=[1], gamma=numbers(4), beta=numbers(4), epsilon=np.float16(1e-3))
        x = mb.silu(x=mb.add(x=x, y=numbers(1, 4, 1, 1)))
        first, second = mb.split(x=x, num_splits=2, axis=1)
        x = mb.concat(values=[mb.gelu(x=first), mb.mul(x=second, y=np.float16(2))], axis=1)
        x = mb.upsample_nearest_neighbor(x=x, scale_factor_height=2, scale_factor_width=2)
        x = mb.transpose(x=mb.reshape(x=x, shape=[1, 4, 64]), perm=[0, 2, 1])
        x = mb.softmax(x=mb.matmul(x=x, y=x, transpose_y=True), axis=-1)
        x = mb.reduce_mean(x=x, axes=[2], keep_dims=True)
        rows = mb.gather(x=numbers(10, 4), indices=ids, axis=0)
        rows = mb.linear(x=rows, weight=numbers(4, 4), bias=numbers(4))
        rows = mb.slice_by_index(x=rows, begin=[0, 0, 0], end=[1, 2, 4])
        rows, _ = mb.while_loop(
            _cond=lambda value, left: mb.greater(x=left, y=np.int32(0)),
            _body=lambda value, left: (mb.mul(x=value, y=np.float16(0.5)), mb.sub(x=left, y=np.int32(1))),
            loop_vars=(rows, np.int32(2)),
        )
        rows = mb.cond(
            pred=mb.greater(x=mb.reduce_max(x=mb.cast(x=ids, dtype="fp16"), keep_dims=False), y=np.float16(0)),
            _true_fn=lambda: mb.relu(x=rows),
            _false_fn=lambda: mb.add(x=rows, y=np.float16(1)),
        )
        return mb.sub(x=mb.reduce_sum(x=rows, axes=[1], keep_dims=True), y=x)

    inputs = {"image": numbers(1, 3, 8, 8), "ids": np.zeros((1, 3), np.int32)}
    save_program(build_program(body, inputs, "ios18"), folder, "ios18")


def run_program(folder: Path) -> None:
    """As `inspect` reads it, and as any runtime of ours executes it, in both precisions' ways."""
    from sfmobile.inspect.inspection import inspect
    from sfmobile.mlpackage.program import load_program
    from sfmobile.runtime.mil.evaluate import Evaluator

    package = folder / "program.mlpackage"
    inspect(package)
    program = load_program(package)
    fed = {
        name: np.zeros(type_.sizes, np.int32 if type_.data_type.startswith("int") else np.float32)
        for name, type_ in program.inputs.items()
        if type_.elements <= 1 << 20 and max(type_.sizes, default=0) <= 1 << 20
    }
    if len(fed) == len(program.inputs):
        evaluator = Evaluator(program, "fp16")
        evaluator(fed)
        evaluator.trace(fed, lambda result: None)


def write_onnx(folder: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weight"], ["y"]), helper.make_node("Relu", ["y"], ["z"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 4, 8, 8])],
        [weight],
    )
    onnx.save(helper.make_model(graph), str(folder / "network.onnx"))


def inspect_onnx(folder: Path) -> None:
    from sfmobile.inspect.inspection import inspect

    str(inspect(folder / "network.onnx"))


def _onnx_model() -> Any:
    import onnx

    return onnx.ModelProto()


# --- reports and other records ---


def _write(name: str, made: Callable[[], Any]) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        from sfmobile.files import write_json

        write_json(folder / name, made())

    return write


def _bench() -> Any:
    from tests.bench.sample import bench

    return bench()


def _verify() -> Any:
    from tests.bench.sample import verify

    return verify()


def compare_reports(folder: Path) -> None:
    """As `compare` and `report import` read reports, against one that is whole."""
    import sfmobile
    from sfmobile.bench.report import report_kind, write_report

    path = folder / "report.json"
    whole = folder / "whole.json"
    write_report(_bench() if report_kind(path) == "bench" else _verify(), whole)
    str(sfmobile.compare(whole, path))


def _recipe() -> Any:
    from sfmobile.compress.recipe import Recipe

    return Recipe.uniform(6)


def read_recipe(folder: Path) -> None:
    from sfmobile.compress.recipe import Recipe

    Recipe.read(folder / "record.json")


def write_plan(folder: Path) -> None:
    from tests.test_writers import plan

    plan(folder / "record.json")


def read_plan(folder: Path) -> None:
    from sfmobile.inspect.operations import compute_plan

    compute_plan.read_plan(folder / "record.json")


def write_table(folder: Path) -> None:
    from tests.test_writers import table

    table(folder / "record.json")


def read_table(folder: Path) -> None:
    from sfmobile.inspect.lookup import table

    table.read_table(folder / "record.json")


# --- training ---


def write_log(folder: Path) -> None:
    lines = [{"step": step, "loss": 1 / step, "images_per_second": 3.5, "gradient_norm": 0.1} for step in range(1, 6)]
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def read_log(folder: Path) -> None:
    from sfmobile.train import curve

    curve.read_log(folder / "log.jsonl")


def write_decisions(folder: Path) -> None:
    from dataclasses import asdict

    from tests.tiny import TINY_UNET

    layout = json.loads(json.dumps(asdict(TINY_UNET)))
    entry = {"round": 1, "score": 0.5, "latency_ms": 3.0, "latency_after_ms": 2.0, "target_ms": 1.0}
    lines = [entry | {"layout": layout, "layout_before": layout}] * 2
    (folder / "decisions.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    (folder / "result.json").write_text(json.dumps({"evolved": {"score": 0.4}}))


def read_decisions(folder: Path) -> None:
    from sfmobile.train.evolve.plot import block_counts, read_path

    for _, layout, _, _ in read_path(folder):
        block_counts(layout)


def write_settings(folder: Path) -> None:
    from tests.tiny import REPOSITORY

    recipe = REPOSITORY / "models" / "recipes" / "glyph-128"
    (folder / "recipe.json").write_bytes((recipe / "recipe.json").read_bytes())


def read_settings(folder: Path) -> None:
    from sfmobile.train.plan import TrainingPlan

    TrainingPlan.read(folder)


def write_pool(folder: Path) -> None:
    import torch

    from sfmobile.train.latents import LatentPool
    from sfmobile.train.state import save_tensors

    pool = LatentPool(torch.zeros(8, 4, 2, 2).half(), torch.zeros(8, 77).int(), torch.zeros(77).int())
    save_tensors(folder / "pool.safetensors", pool.tensors(), {"made": "here"})


def read_pool(folder: Path) -> None:
    import torch

    from sfmobile.train.latents import LatentPool

    LatentPool.load(folder / "pool.safetensors", torch.device("cpu")).batch(0, 4, 0)


def write_tar(folder: Path) -> None:
    with tarfile.open(folder / "data.tgz", "w:gz") as target:
        for name in ("package/one.svg", "package/two.svg", "package/data.json"):
            entry = tarfile.TarInfo(name)
            entry.size = 20
            target.addfile(entry, io.BytesIO(b"x" * 20))


def write_zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "data.whl", "w", zipfile.ZIP_DEFLATED) as target:
        for name in ("package/one.svg", "package/two.svg"):
            target.writestr(name, b"x" * 200)


def read_archive(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> None:
        from sfmobile.train.archives import read_members

        read_members(folder / name, "an archive of drawings", re.compile(r"\.svg$"), "package/", most=1 << 20)

    return read


# --- the worker's frames ---


def write_frame(folder: Path) -> None:
    from sfmobile.runtime.wire import pack_string, pack_tensors

    tensors = {"latents": np.ones((1, 4, 2, 2), np.float32), "ids": np.ones((3,), np.int32)}
    (folder / "frame.bin").write_bytes(pack_string("unet") + pack_tensors(tensors))


def read_frame(folder: Path) -> None:
    from sfmobile.errors import ArtifactError
    from sfmobile.runtime.wire import Reader, RequestError

    reader = Reader(memoryview((folder / "frame.bin").read_bytes()))
    try:
        reader.string()
        reader.tensors()
        reader.end()
    except RequestError as error:
        raise ArtifactError(str(error)) from error


def _checkpoint_file(file: str, mutate: Mutator = mutators.as_json) -> Format:
    return Format(f"checkpoint/{file}", write_checkpoint, mutate, open_checkpoint, examples=15)


FORMATS: dict[str, Format] = {
    "manifest": Format("bundle/manifest.json", write_bundle, mutators.as_json, open_bundle, (2, 4)),
    "vector": Format("bundle/golden/latents.npy", write_bundle, mutators.as_vector, lambda folder: _vector(folder)),
    "model-index": _checkpoint_file("model_index.json"),
    "unet-config": _checkpoint_file("unet/config.json"),
    "autoencoder-config": _checkpoint_file("vae/config.json"),
    "text-encoder-config": _checkpoint_file("text_encoder/config.json"),
    "scheduler": _checkpoint_file("scheduler/scheduler_config.json"),
    "vocabulary": _checkpoint_file("tokenizer/vocab.json"),
    "merges": _checkpoint_file("tokenizer/merges.txt", mutators.as_lines),
    "special-tokens": _checkpoint_file("tokenizer/special_tokens_map.json"),
    "tokenizer-config": _checkpoint_file("tokenizer/tokenizer_config.json"),
    "fast-tokenizer": Format("tokenizer.json", write_fast_tokenizer, mutators.as_json, copy_tokenizer),
    "weights": Format(
        "checkpoint/vae/diffusion_pytorch_model.safetensors",
        write_checkpoint,
        mutators.as_safetensors,
        load_checkpoint,
        examples=12,
    ),
    "shards": Format(
        "checkpoint/unet/diffusion_pytorch_model.safetensors.index.json",
        write_shards,
        mutators.as_json,
        open_checkpoint,
    ),
    "lora": Format("lora.safetensors", write_overlays, mutators.as_safetensors, open_with_lora, examples=15),
    "embedding": Format(
        "embedding.safetensors", write_overlays, mutators.as_safetensors, open_with_embedding, examples=15
    ),
    "program": Format(
        MODEL_FILE, write_program, mutators.as_message(lambda: schema.model().Model()), run_program, BEYOND, 20
    ),
    "program-weights": Format(
        "program.mlpackage/Data/com.apple.CoreML/weights/weight.bin",
        write_program,
        mutators.as_bytes,
        run_program,
        examples=8,
    ),
    "listing": Format("program.mlpackage/Manifest.json", write_program, mutators.as_json, run_program, examples=8),
    "onnx": Format("network.onnx", write_onnx, mutators.as_message(_onnx_model), inspect_onnx, BEYOND),
    "bench-report": Format("report.json", _write("report.json", _bench), mutators.as_json, compare_reports, (2, 4)),
    "verify-report": Format("report.json", _write("report.json", _verify), mutators.as_json, compare_reports, (2, 4)),
    "recipe": Format("record.json", _write("record.json", _recipe), mutators.as_json, read_recipe),
    "compute-plan": Format("record.json", write_plan, mutators.as_json, read_plan),
    "lookup-table": Format("record.json", write_table, mutators.as_json, read_table),
    "training-log": Format("log.jsonl", write_log, mutators.as_lines, read_log),
    "decisions": Format("decisions.jsonl", write_decisions, mutators.as_lines, read_decisions, (2, 4)),
    "evolution-result": Format("result.json", write_decisions, mutators.as_json, read_decisions, (2, 4)),
    # What a person writes: a mistake in it is one of usage.
    "training-plan": Format("recipe.json", write_settings, mutators.as_json, read_settings, (2,)),
    "latent-pool": Format("pool.safetensors", write_pool, mutators.as_safetensors, read_pool),
    "tar": Format("data.tgz", write_tar, mutators.as_tar, read_archive("data.tgz")),
    "zip": Format("data.whl", write_zip, mutators.as_zip, read_archive("data.whl")),
    "frame": Format("frame.bin", write_frame, mutators.as_bytes, read_frame),
}


def _vector(folder: Path) -> object:
    from sfmobile.bundle.directory import read_vector

    return read_vector(folder / "bundle/golden/latents.npy")
