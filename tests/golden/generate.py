"""Writes the golden vectors that Python and Swift are both held to: `python -m tests.golden.generate`.

The oracles are transformers (token ids, pictures normalised), torch (noise, guidance), diffusers (samplers, time
embedding, pixels, safety) and Pillow (scaled pictures); nothing here calls sfmobile's own arithmetic. The files lie
beside this script and are committed. Noise is torch's x86 build's: on other processors torch's vectorised logarithm,
sine and cosine differ in the last bits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden.texts import texts

GOLDEN = Path(__file__).parent
TOKENIZER = GOLDEN.parents[1] / "models/glyph/tokenizer"

NOISE_SEEDS = (0, 1, 42, 1234567890, 2**32 - 1, 2**32, 2**63, 2**64 - 1)
# Drawn one after the other from one generator: below 16 values torch takes another path, which keeps a spare value.
NOISE_COUNTS = ((1,), (2,), (15,), (16,), (17,), (31,), (100,), (1, 1, 1), (3, 20, 2, 5), (16, 7, 33, 8))
LATENT_COUNTS = ((0, 4 * 64 * 64), (7, 4 * 64 * 64), (3, 4 * 16 * 16), (5, 4 * 24 * 20))

STABLE_DIFFUSION = {
    "kind": "ddim",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "rescale_betas_zero_snr": False,
}
SCHEDULES: dict[str, tuple[int, dict[str, Any]]] = {
    "sd15-8": (8, {}),
    "sd15-50": (50, {}),
    "sd15-1": (1, {}),
    "velocity-leading": (8, {"prediction_type": "v_prediction"}),
    "velocity-trailing": (8, {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    "velocity-zero-snr": (
        8,
        {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
    ),
    "epsilon-trailing": (8, {"timestep_spacing": "trailing"}),
    "epsilon-linspace": (8, {"timestep_spacing": "linspace"}),
    "velocity-linspace": (7, {"prediction_type": "v_prediction", "timestep_spacing": "linspace"}),
    "alpha-to-one": (8, {"set_alpha_to_one": True, "steps_offset": 0}),
    "clipped": (8, {"clip_sample": True, "clip_sample_range": 0.8}),
    "linear": (8, {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}),
    "cosine": (8, {"beta_schedule": "squaredcos_cap_v2"}),
    "odd-steps": (13, {"timestep_spacing": "trailing"}),
    "short-training": (10, {"num_train_timesteps": 100, "timestep_spacing": "trailing"}),
}
# Heights and widths of pictures that are brought to a safety checker.
SCALED = ((24, 24), (7, 11), (33, 70), (40, 31))
VELOCITY = {"prediction_type": "v_prediction"}
TRAILING_ZERO_SNR = {**VELOCITY, "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}
LINSPACE = {"timestep_spacing": "linspace"}
# By name: kind of record, steps, and what differs from Stable Diffusion's constants and the kind's own defaults.
WALKS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "ddim-eta": ("ddim", 8, {"set_alpha_to_one": True, "clip_sample": False, "eta": 0.7}),
    "ddim-sample": ("ddim", 8, {"set_alpha_to_one": True, "clip_sample": False, "prediction_type": "sample"}),
    "pndm": ("pndm", 8, {"set_alpha_to_one": False}),
    "pndm-one-step": ("pndm", 1, {"set_alpha_to_one": False}),
    "pndm-runge-kutta": ("pndm", 6, {"set_alpha_to_one": False, "skip_prk_steps": False, **VELOCITY}),
    "euler": ("euler", 8, LINSPACE),
    "euler-leading": ("euler", 8, VELOCITY),
    "euler-karras": ("euler", 8, {"sigma_schedule": "karras", **LINSPACE}),
    "euler-ends": ("euler", 6, {"sigma_schedule": "karras", "sigma_min": 0.05, "sigma_max": 12.0, **LINSPACE}),
    "euler-exponential": ("euler", 8, {"sigma_schedule": "exponential", "final_sigma": "sigma_min"}),
    "euler-zero-snr": ("euler", 8, TRAILING_ZERO_SNR),
    "euler-sample": ("euler", 5, {"prediction_type": "sample", "timestep_spacing": "trailing"}),
    "euler-ancestral": ("euler-ancestral", 8, LINSPACE),
    "euler-ancestral-velocity": ("euler-ancestral", 5, {**VELOCITY, "timestep_spacing": "trailing"}),
    "heun": ("heun", 6, LINSPACE),
    "heun-karras": ("heun", 6, {**VELOCITY, "sigma_schedule": "karras"}),
    "dpm++2m": ("dpm++2m", 8, LINSPACE),
    "dpm++2m-karras": ("dpm++2m", 20, {"sigma_schedule": "karras", **LINSPACE}),
    "dpm++2m-exponential": ("dpm++2m", 8, {"sigma_schedule": "exponential", **VELOCITY}),
    "dpm++2m-lu": ("dpm++2m", 8, {"sigma_schedule": "lu"}),
    "dpm++2m-sde": ("dpm++2m", 8, {"stochastic": True, **LINSPACE}),
    "dpm++2m-sde-heun": ("dpm++2m", 8, {"stochastic": True, "solver_type": "heun", "final_sigma": "sigma_min"}),
    "dpm++2m-heun": ("dpm++2m", 16, {"solver_type": "heun", "euler_at_final": True, "timestep_spacing": "trailing"}),
    "dpm++2m-third": ("dpm++2m", 16, {"solver_order": 3, "lower_order_final": False}),
    "dpm++2m-cosine": ("dpm++2m", 8, {"beta_schedule": "squaredcos_cap_v2", "lambda_min": -5.1, **LINSPACE}),
    "dpm++2m-zero-snr": ("dpm++2m", 8, TRAILING_ZERO_SNR),
    "dpm++2s": ("dpm++2s", 8, LINSPACE),
    "dpm++2s-odd": ("dpm++2s", 7, {"solver_type": "heun", "final_sigma": "sigma_min", **LINSPACE}),
    "dpm++2s-sde": ("dpm++2s", 8, {"stochastic": True, **LINSPACE}),
    "unipc": ("unipc", 8, LINSPACE),
    "unipc-third": (
        "unipc",
        10,
        {"solver_order": 3, "solver_type": "bh1", "disable_corrector": (0,), "final_sigma": "sigma_min"},
    ),
    "unipc-karras": ("unipc", 8, {"sigma_schedule": "karras", "prediction_type": "sample"}),
    "lcm": ("lcm", 4, {}),
    "lcm-velocity": ("lcm", 6, {**VELOCITY, "original_inference_steps": 100, "clip_sample": True}),
    "tcd": ("tcd", 4, {}),
    "tcd-straight": ("tcd", 4, {**VELOCITY, "eta": 0.0}),
}
TIMESTEPS = (0, 1, 11, 126, 500, 876, 981, 999)
EMBEDDINGS = (
    {"dimension": 320, "flip_sin_to_cos": True, "frequency_shift": 0.0, "max_period": 10000.0},
    {"dimension": 64, "flip_sin_to_cos": False, "frequency_shift": 1.0, "max_period": 10000.0},
    {"dimension": 32, "flip_sin_to_cos": True, "frequency_shift": 0.0, "max_period": 500.0},
)


def write_json(name: str, content: object) -> None:
    """ASCII with escapes: control characters and lone marks survive every editor."""
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    (GOLDEN / name).write_text(text.replace("},{", "},\n{") + "\n", encoding="ascii")


def write_tokens() -> None:
    """tokens.json: texts with their ids up to and including the end; the rest is padding."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    cases = []
    for text in texts():
        encoding = tokenizer(text, padding="max_length", truncation=True, max_length=77)
        cases.append({"text": text, "ids": encoding.input_ids[: sum(encoding.attention_mask)]})
    write_json("tokens.json", cases)


def write_added_tokens() -> None:
    """added-tokens.json: tokenizers with added tokens, in each layout; prompts with the ids that diffusers feeds."""
    import tempfile

    from diffusers.loaders import TextualInversionLoaderMixin
    from transformers import CLIPTokenizer

    from tests.checkpoint.added_tokens import LAYOUTS, PROMPTS

    tokenizers = []
    for name, write in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            tokenizer = CLIPTokenizer.from_pretrained(folder)
        tokens = tokenizer.added_tokens_decoder.items()
        cases = []
        for text in PROMPTS:
            converted = TextualInversionLoaderMixin().maybe_convert_prompt(text, tokenizer)
            ids = tokenizer(converted, padding="max_length", truncation=True, max_length=77).input_ids
            cases.append({"text": text, "ids": ids})
        tokenizers.append(
            {
                "name": name,
                "pad": tokenizer.pad_token_id,
                "added": {token.content: index for index, token in tokens if token.normalized},
                "exact": {token.content: index for index, token in tokens if not token.normalized},
                "cases": cases,
            }
        )
    write_json("added-tokens.json", tokenizers)


def write_noise() -> None:
    """noise.json and noise.npy: draws from seeded generators, their values one after the other."""
    import torch

    draws = [(seed, counts) for seed in NOISE_SEEDS for counts in NOISE_COUNTS]
    draws += [(seed, (count,)) for seed, count in LATENT_COUNTS]
    values = []
    for seed, counts in draws:
        generator = torch.Generator().manual_seed(seed)
        values += [torch.randn(count, generator=generator).numpy() for count in counts]
    # Seeds as text: JSON numbers end at 2^53.
    write_json("noise.json", [{"seed": str(seed), "counts": counts} for seed, counts in draws])
    np.save(GOLDEN / "noise.npy", np.concatenate(values))


def diffusers_scheduler(record: dict[str, Any]) -> Any:
    from diffusers import DDIMScheduler

    names = {key: value for key, value in record.items() if key != "kind"}
    return DDIMScheduler(**names)


def write_schedules() -> None:
    """ddim.json with ddim/NAME.outputs.npy (steps, 64) and ddim/NAME.latents.npy (steps + 1, 64).

    The model outputs are those of a network that sees a clean picture through noise, and errs a little.
    """
    import torch

    (GOLDEN / "ddim").mkdir(exist_ok=True)
    cases = []
    for name, (steps, changes) in SCHEDULES.items():
        record = {**STABLE_DIFFUSION, **changes}
        scheduler = diffusers_scheduler(record)
        scheduler.set_timesteps(steps)
        listed = [*scheduler.timesteps.tolist(), -1]
        generator = torch.Generator().manual_seed(len(cases))
        clean = torch.rand(1, 4, 4, 4, generator=generator) * 2 - 1
        latents = torch.randn(1, 4, 4, 4, generator=generator)
        history, outputs = [latents], []
        for timestep in scheduler.timesteps:
            alpha = scheduler.alphas_cumprod[timestep]
            noise = (latents - alpha.sqrt() * clean) / (1 - alpha).sqrt()
            exact = (
                noise if record["prediction_type"] == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
            )
            output = exact + 0.1 * torch.randn(1, 4, 4, 4, generator=generator)
            if record["timestep_spacing"] == "linspace":
                # diffusers steps by the first of these divided by the second, which misses its own next timestep.
                scheduler.register_to_config(num_train_timesteps=listed[len(outputs)] - listed[len(outputs) + 1])
                scheduler.num_inference_steps = 1
            latents = scheduler.step(output, timestep, latents, eta=0.0).prev_sample
            history.append(latents)
            outputs.append(output)
        np.save(GOLDEN / f"ddim/{name}.outputs.npy", torch.cat(outputs).reshape(steps, 64).numpy())
        np.save(GOLDEN / f"ddim/{name}.latents.npy", torch.cat(history).reshape(steps + 1, 64).numpy())
        timesteps = [int(timestep) for timestep in scheduler.timesteps]
        cases.append({"name": name, "steps": steps, "timesteps": timesteps, "scheduler": record})
    write_json("ddim.json", cases)


def write_walks() -> None:
    """samplers.json with samplers/NAME.npy (calls, 3, 64): model input, output and latents behind each call.

    The noise of the seed comes first, then the sampler's own draws. Outputs are those of a network that sees a clean
    picture through noise, and errs a little.
    """
    import torch

    from sfmobile.bundle.samplers import RECORDS
    from tests.sampling.samplers.oracles import FakeNetwork, noise, scheduler_of, their_step

    kinds = {record.model_fields["kind"].default: record for record in RECORDS}
    shared = {key: value for key, value in STABLE_DIFFUSION.items() if key in kinds["euler"].model_fields}
    (GOLDEN / "samplers").mkdir(exist_ok=True)
    cases = []
    for seed, (name, (kind, steps, changes)) in enumerate(WALKS.items()):
        record = kinds[kind](**{**shared, "kind": kind, **changes})
        scheduler = scheduler_of(record, steps)
        unit, generator = noise(seed)
        latents = torch.from_numpy(unit) * scheduler.init_noise_sigma
        network, rows = FakeNetwork(record.prediction_type), []
        for timestep in scheduler.timesteps:
            model_input = scheduler.scale_model_input(latents, timestep)
            output = torch.from_numpy(network(model_input.numpy(), float(timestep)))
            latents, _ = their_step(record, scheduler, output, timestep, latents, generator)
            rows.append(torch.cat([model_input, output, latents]).reshape(3, 64).numpy())
        np.save(GOLDEN / f"samplers/{name}.npy", np.stack(rows))
        cases.append(
            {
                "name": name,
                "seed": seed,
                "steps": steps,
                "noise_scale": float(scheduler.init_noise_sigma),
                "timesteps": [float(timestep) for timestep in scheduler.timesteps],
                "sampler": record.model_dump(mode="json"),
            }
        )
    write_json("samplers.json", cases)


def write_embeddings() -> None:
    """embeddings.json and embeddings/N.npy (timesteps, dimension)."""
    import torch
    from diffusers.models.embeddings import get_timestep_embedding

    (GOLDEN / "embeddings").mkdir(exist_ok=True)
    for index, record in enumerate(EMBEDDINGS):
        embedding = get_timestep_embedding(
            torch.tensor(TIMESTEPS),
            record["dimension"],
            flip_sin_to_cos=record["flip_sin_to_cos"],
            downscale_freq_shift=record["frequency_shift"],
            max_period=record["max_period"],
        )
        np.save(GOLDEN / f"embeddings/{index}.npy", embedding.numpy())
    write_json("embeddings.json", {"timesteps": TIMESTEPS, "records": EMBEDDINGS})


def write_guidance_embeddings() -> None:
    """guidance_embeddings.npy, a row for each scale of guidance_embeddings.json."""
    import torch
    from diffusers import StableDiffusionPipeline

    scales, dimension = (0.0, 1.0, 2.0, 7.5, 8.5, 14.0), 48
    embed = StableDiffusionPipeline.get_guidance_scale_embedding
    rows = [embed(None, torch.tensor(scale - 1).reshape(1), dimension) for scale in scales]
    np.save(GOLDEN / "guidance_embeddings.npy", torch.cat(rows).numpy())
    write_json("guidance_embeddings.json", {"scales": scales, "dimension": dimension})


def write_guidance() -> None:
    """guidance.npy, rows: unconditional, conditional, and guided at the scales of guidance.json."""
    import torch

    scales = (1.5, 2.0, 7.5, 14.0)
    generator = torch.Generator().manual_seed(11)
    unconditional, conditional = torch.randn(2, 256, generator=generator)
    guided = [unconditional + scale * (conditional - unconditional) for scale in scales]
    np.save(GOLDEN / "guidance.npy", torch.stack([unconditional, conditional, *guided]).numpy())
    write_json("guidance.json", {"scales": scales})


def write_pictures() -> None:
    """picture.image.npy (1, 3, 16, 24) with values beyond -1 and 1 and at every rounding edge; picture.pixels.npy."""
    import torch
    from diffusers.image_processor import VaeImageProcessor

    generator = torch.Generator().manual_seed(12)
    image = torch.randn(1, 3, 16, 24, generator=generator)
    edges = (torch.arange(510) / 2 / 255) * 2 - 1
    image.view(-1)[:510] = edges
    pixels = VaeImageProcessor().postprocess(image.clone(), output_type="np")
    pixels = (pixels * 255).round().astype("uint8")[0]
    np.save(GOLDEN / "picture.image.npy", image.numpy())
    np.save(GOLDEN / "picture.pixels.npy", pixels)


def write_safety() -> None:
    """safety/N.picture.npy, its forms in other sizes by Pillow, and what CLIPImageProcessor makes of it; safety.json:
    embeddings and concepts with the scores and the flag of diffusers' safety checker."""
    import torch
    from diffusers.pipelines.stable_diffusion import safety_checker as module
    from PIL import Image
    from transformers import CLIPConfig, CLIPImageProcessor

    (GOLDEN / "safety").mkdir(exist_ok=True)
    generator = np.random.default_rng(21)
    processor = CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 20, "width": 20})
    for index, (height, width) in enumerate(SCALED):
        pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
        picture = Image.fromarray(pixels)
        np.save(GOLDEN / f"safety/{index}.picture.npy", pixels)
        for name, kernel in (("bicubic", Image.Resampling.BICUBIC), ("lanczos", Image.Resampling.LANCZOS)):
            # Rows first, whatever Pillow's version would begin with.
            scaled = picture.resize((23, height), kernel).resize((23, 31), kernel)
            np.save(GOLDEN / f"safety/{index}.{name}.npy", np.asarray(scaled))
        values = processor(picture, return_tensors="np").pixel_values
        np.save(GOLDEN / f"safety/{index}.values.npy", values.astype(np.float32))
    checker = module.StableDiffusionSafetyChecker(
        CLIPConfig(vision_config={"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}, projection_dim=8)
    )
    torch.manual_seed(22)
    for name in ("concept_embeds", "special_care_embeds"):
        torch.nn.init.normal_(getattr(checker, name))
        torch.nn.init.uniform_(getattr(checker, f"{name}_weights"), 0.5, 0.8)
    embeddings = torch.randn(24, 8)
    # Beside a special concept, so that its care begins.
    embeddings[12:] = checker.special_care_embeds[[0, 1, 2] * 4] + 0.7 * embeddings[12:]
    checker.vision_model.forward = lambda rows: (None, rows)
    checker.visual_projection = torch.nn.Identity()
    scores: list[float] = []

    def kept(value: float, digits: int) -> float:
        scores.append(float(round(value, digits)))
        return scores[-1]

    # It rounds each score, one behind the other, and returns none.
    module.round = kept
    _, flags = checker(embeddings, np.zeros((len(embeddings), 1)))
    write_json(
        "safety.json",
        {
            "mean": list(processor.image_mean),
            "std": list(processor.image_std),
            "concepts": checker.concept_embeds.tolist(),
            "special_care": checker.special_care_embeds.tolist(),
            "concept_thresholds": checker.concept_embeds_weights.tolist(),
            "special_care_thresholds": checker.special_care_embeds_weights.tolist(),
            "embeddings": embeddings.tolist(),
            "scores": np.reshape(scores, (len(embeddings), -1)).tolist(),
            "flagged": [bool(flag) for flag in flags],
        },
    )


def write_arrays() -> None:
    """arrays/DTYPE.npy: what NumPy itself writes, for the reader of its format."""
    (GOLDEN / "arrays").mkdir(exist_ok=True)
    values = np.array([[0, 1, -2.5], [65504, 6e-8, 100]])
    for dtype in ("float16", "float32", "float64"):
        np.save(GOLDEN / f"arrays/{dtype}.npy", values.astype(dtype))
    for dtype in ("int32", "int64"):
        np.save(GOLDEN / f"arrays/{dtype}.npy", np.array([-(2**31), -1, 0, 2**31 - 1], dtype))
    np.save(GOLDEN / "arrays/uint64.npy", np.array([0, 2**63, 2**64 - 1], np.uint64))
    np.save(GOLDEN / "arrays/uint8.npy", np.arange(256, dtype=np.uint8).reshape(4, 8, 8))
    np.save(GOLDEN / "arrays/scalar.npy", np.float32(0.1))
    np.save(GOLDEN / "arrays/empty.npy", np.zeros((0, 4), np.float32))
    np.save(GOLDEN / "arrays/fortran.npy", np.asfortranarray(np.eye(3, 2, dtype=np.float32)))


def main() -> None:
    write_tokens()
    write_added_tokens()
    write_noise()
    write_schedules()
    write_walks()
    write_embeddings()
    write_guidance_embeddings()
    write_guidance()
    write_pictures()
    write_safety()
    write_arrays()


if __name__ == "__main__":
    main()
