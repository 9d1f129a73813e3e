"""What is learned is what everybody merges: by our own export and by diffusers with peft."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from sfmobile.bundle.pipeline import GuidanceEmbeddingCondition
from sfmobile.checkpoint.hub import open_checkpoint
from sfmobile.errors import UsageError
from sfmobile.sampling.picture import Picture
from sfmobile.sampling.samplers.schedule import alphas_cumprod
from sfmobile.sampling.time_embedding import sinusoid
from sfmobile.train.own.lora import LoraTraining, add_low_rank, train_lora
from tests.checkpoint.diffusers_files import stable_diffusion_1
from tests.cli.run import run
from tests.nets.oracles import agreement_db

STEPS = 40


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own") / "base"
    stable_diffusion_1().save_pretrained(root)
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("pictures")
    for number, colour in enumerate(((200, 30, 30), (30, 30, 200))):
        Picture(np.full((40, 32, 3), colour, np.uint8)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("a mug")
    return folder


@pytest.fixture(scope="module")
def learned(base: Path, pictures: Path) -> LoraTraining:
    return train_lora(base, pictures, base.parent / "mug.safetensors", steps=STEPS, rank=4, learning_rate=2e-2, batch=4)


def inputs(base: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents, the sinusoid of a timestep, and hidden states, as our UNet takes them."""
    checkpoint = open_checkpoint(base)
    torch.manual_seed(3)
    height, width = checkpoint.latent_size
    hidden = torch.randn(1, checkpoint.text_encoder_layout.hidden, 1, 77)
    return torch.randn(1, 4, height, width), torch.as_tensor(sinusoid([500], checkpoint.time_embedding)), hidden


def test_a_change_begins_at_nothing(base: Path) -> None:
    unet = open_checkpoint(base).load("unet")
    given = inputs(base)
    with torch.inference_mode():
        before = unet(*given)
        changes = add_low_rank(unet, 4)
        assert torch.equal(unet(*given), before)
    assert len(changes) == 4 * sum(name.endswith(("attn1", "attn2")) for name, _ in unet.named_modules())


def test_what_was_learned_is_what_we_and_diffusers_merge(base: Path, learned: LoraTraining) -> None:
    given = inputs(base)
    trained = open_checkpoint(base).load("unet")
    stored = load_file(learned.path)
    for path, change in add_low_rank(trained, 4).items():
        for name, weight in (("lora_A", change.down.weight), ("lora_B", change.up.weight)):
            weight.data = stored.pop(f"unet.{path}.{name}.weight").float()[:, :, None, None]
    assert not stored
    ours = open_checkpoint(base, lora=[learned.path]).load("unet")
    pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
    pipeline.load_lora_weights(str(learned.path.parent), weight_name=learned.path.name)
    pipeline.fuse_lora()
    latents, _, hidden = given
    with torch.inference_mode():
        plain = open_checkpoint(base).load("unet")(*given)
        expected = trained(*given)
        theirs = pipeline.unet(latents, 500, hidden[:, :, 0].transpose(1, 2)).sample
        assert agreement_db(ours(*given), expected) > 90
        assert agreement_db(theirs, expected) > 90
        assert agreement_db(plain, expected) < 60


def test_the_loss_on_the_pictures_falls(base: Path, pictures: Path, learned: LoraTraining) -> None:
    def loss(lora: tuple[Path, ...]) -> float:
        """Of noise that neither was trained with, over timesteps from end to end."""
        checkpoint = open_checkpoint(base, lora=list(lora))
        unet, encoder = checkpoint.load("unet"), checkpoint.load("encoder")
        kept = torch.as_tensor(alphas_cumprod(checkpoint.sampler))
        generator = torch.Generator().manual_seed(9)
        height, width = (side * checkpoint.autoencoder_layout.downsampling for side in checkpoint.latent_size)
        total = 0.0
        with torch.inference_mode():
            mean = encoder(torch.full((1, 3, height, width), 0.2))[:, :4] * checkpoint.autoencoder_layout.scaling_factor
            for timestep in range(50, 1000, 100):
                noise = torch.randn(mean.shape, generator=generator)
                noisy = kept[timestep].sqrt() * mean + (1 - kept[timestep]).sqrt() * noise
                time = torch.as_tensor(sinusoid([timestep], checkpoint.time_embedding))
                hidden = torch.zeros(1, checkpoint.text_encoder_layout.hidden, 1, 77)
                total += float(((unet(noisy, time, hidden) - noise) ** 2).mean())
        return total / 10

    assert open_checkpoint(base).sampler.prediction_type == "epsilon"
    assert loss((learned.path,)) < 0.97 * loss(())
    assert len(learned.losses) == STEPS and learned.pictures == 2


def test_the_same_seed_learns_the_same(base: Path, pictures: Path, tmp_path: Path) -> None:
    files = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        path = tmp_path / f"{name}.safetensors"
        train_lora(base, pictures, path, steps=2, rank=2, seed=seed)
        files.append(path.read_bytes())
    assert files[0] == files[1] != files[2]


def test_the_command_says_what_to_run_next(base: Path, pictures: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "mug.safetensors"
    outcome = run(capsys, "train", "lora", base, pictures, "-o", out, "--steps", 1, "--rank", 2)
    assert outcome.code == 0, outcome.err
    assert f"Next: sfmobile export {base} --lora {out} -o out/mug" in outcome.out
    assert run(capsys, "train", "lora", base, tmp_path / "absent", "-o", out).code == 2


def test_a_unet_that_takes_more_than_text_is_refused_before_anything_is_read(
    base: Path, pictures: Path, tmp_path: Path
) -> None:
    plain = open_checkpoint(base)
    conditions = (*plain.description.conditions, GuidanceEmbeddingCondition(dimension=8))
    other = replace(plain, description=replace(plain.description, conditions=conditions))
    with pytest.raises(UsageError, match="takes text alone, found text-to-image and guidance_embedding"):
        train_lora(other, pictures, tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"output": "a.pt"}, "should end in .safetensors"),
        ({"learning_rate": 0.0}, "teach nothing"),
        ({"rank": 0}, "rank 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    settings: dict[str, object], said: str, base: Path, pictures: Path, tmp_path: Path
) -> None:
    given = {"output": tmp_path / "a.safetensors", **settings}
    output = given.pop("output")
    with pytest.raises(UsageError, match=said):
        train_lora(base, pictures, tmp_path / str(output), **given)  # type: ignore[arg-type]
