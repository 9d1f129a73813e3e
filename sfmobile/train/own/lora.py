"""LoRA fine-tuning (arXiv 2106.09685) of a checkpoint on a folder of captioned pictures.

The UNet's attention projections learn a change of low rank, everything else stays: the loss is the checkpoint's own,
the mean squared error of what its UNet predicts at a random timestep (arXiv 2006.11239, eq. 14; 2202.00512 for v). What
comes out is a file that `export --lora`, diffusers and others merge.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfmobile.bundle.pipeline import TextCondition
from sfmobile.checkpoint.hub import open_checkpoint
from sfmobile.errors import GateError, UsageError
from sfmobile.files import require_writable
from sfmobile.nets.attention import Attention
from sfmobile.observer import Observer
from sfmobile.sampling.given import read_given, to_image
from sfmobile.sampling.samplers.schedule import alphas_cumprod
from sfmobile.sampling.time_embedding import sinusoid
from sfmobile.sampling.tokenizer import Tokenizer
from sfmobile.train.own.pictures import Captioned, read_folder
from sfmobile.train.state import save_tensors

if TYPE_CHECKING:
    from sfmobile.checkpoint.directory import Checkpoint

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
# Share of captions left out, so that guidance still has a prediction without one.
CAPTION_DROPOUT = 0.1
# Of the mean that the loss is told as; a single step's says little.
SMOOTHING = 0.98


class LowRank(nn.Module):
    """A 1x1 convolution and a change of it of low rank, which begins at zero."""

    def __init__(self, base: nn.Conv2d, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Conv2d(base.in_channels, rank, 1, bias=False)
        self.up = nn.Conv2d(rank, base.out_channels, 1, bias=False)
        nn.init.normal_(self.down.weight, std=1 / rank)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in, 1, S); returns (B, out, 1, S)."""
        changed: Tensor = self.base(x) + self.up(self.down(x))
        return changed


@dataclass(frozen=True)
class LoraTraining:
    """What was learned. losses: the smoothed loss behind each step. pictures: how many it was learned from."""

    path: Path
    pictures: int
    steps: int
    rank: int
    losses: tuple[float, ...] = field(repr=False)

    def __str__(self) -> str:
        return (
            f"{self.path}: rank {self.rank}, {self.steps} steps on {self.pictures} pictures, loss "
            f"{self.losses[0]:.4f} to {self.losses[-1]:.4f} (smoothed; a step's own depends on its timestep)."
        )


def add_low_rank(unet: nn.Module, rank: int) -> dict[str, LowRank]:
    """Put a `LowRank` in place of every attention projection; returns them by the projection's path."""
    found: dict[str, LowRank] = {}
    for path, module in list(unet.named_modules()):
        if isinstance(module, Attention):
            for name in PROJECTIONS:
                parent = module.get_submodule(name.rpartition(".")[0])
                leaf = name.rpartition(".")[2]
                changed = LowRank(parent.get_submodule(leaf), rank)  # type: ignore[arg-type]
                setattr(parent, leaf, changed)
                found[f"{path}.{name}"] = changed
    return found


def train_lora(
    source: Checkpoint | Path | str,
    folder: Path | str,
    output: Path | str,
    *,
    steps: int = 500,
    rank: int = 8,
    learning_rate: float = 1e-4,
    batch: int = 1,
    seed: int = 0,
    device: str | None = None,
    observer: Observer | None = None,
) -> LoraTraining:
    """Teach a checkpoint the pictures of `folder` and write what it learned as the LoRA `output`, a .safetensors file.

    source: as `open_checkpoint` takes it, with its image encoder. folder: pictures with captions, see `read_folder`;
    each is brought to the checkpoint's size, what doesn't fit is cut off. rank: of each change. batch: pictures a step.
    device: of torch; a GPU if there is one. The same seed learns the same on the same machine.

    Raises `UsageError` for settings out of range and for a checkpoint of another task, `ArtifactError` for pictures or
    captions that can't be read, `GateError` if the loss is no number any more.
    """
    told, folder, output = observer or Observer(), Path(folder), Path(output)
    _check(output, steps, rank, learning_rate, batch)
    require_writable(output)
    pictures = read_folder(folder)
    told.start(f"Opening {source}")
    checkpoint = source if not isinstance(source, (str, Path)) else open_checkpoint(source)
    more = [one.kind for one in checkpoint.description.conditions if not isinstance(one, TextCondition)]
    if checkpoint.description.task != "text-to-image" or more or checkpoint.controls:
        found = "".join(f" and {kind}" for kind in more)
        raise UsageError(
            f"'{checkpoint.root}' can't be taught here: expected text-to-image by a UNet that takes text alone, found "
            f"{checkpoint.description.task}{found}; teach the plain checkpoint that it was made from, if there is one, "
            "and merge the LoRA into this."
        )
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.manual_seed(seed)
    moments = _moments(checkpoint, pictures, place, told)
    contexts = _contexts(checkpoint, pictures, place)
    unet = checkpoint.load("unet").to(place).requires_grad_(False)
    changes = add_low_rank(unet, rank)
    unet.to(place)
    losses = list(_learn(checkpoint, unet, changes, moments, contexts, (steps, learning_rate, batch), told))
    _write(output, changes, checkpoint.name, len(pictures), steps)
    return LoraTraining(output, len(pictures), steps, rank, tuple(losses))


def _check(output: Path, steps: int, rank: int, learning_rate: float, batch: int) -> None:
    if output.suffix != ".safetensors":
        raise UsageError(f"'{output}' should end in .safetensors, the form that LoRAs are read in.")
    if steps < 1 or rank < 1 or batch < 1 or not 0 < learning_rate < 1:
        raise UsageError(
            f"{steps} steps, rank {rank}, batch {batch} and learning rate {learning_rate:g} teach nothing; expected "
            "1 or more of each, and a learning rate such as 1e-4."
        )


def _moments(checkpoint: Checkpoint, pictures: tuple[Captioned, ...], place: torch.device, told: Observer) -> Tensor:
    """Mean and log-variance of every picture's latents, (N, 2 C, h, w), unscaled."""
    encoder = checkpoint.load("encoder").to(place)
    factor = checkpoint.autoencoder_layout.downsampling
    size = (factor * checkpoint.latent_size[0], factor * checkpoint.latent_size[1])
    told.start("Encoding pictures", len(pictures))
    found = []
    with torch.inference_mode():
        for one in pictures:
            given, _ = read_given(one.path, size)
            found.append(encoder(torch.from_numpy(to_image(given.picture)).to(place)))
            told.advance()
    return torch.cat(found).clone()


def _contexts(checkpoint: Checkpoint, pictures: tuple[Captioned, ...], place: torch.device) -> Tensor:
    """Hidden states of every caption and, last, of the empty one: (N + 1, C, 1, S)."""
    tokenizer = Tokenizer(checkpoint.tokenizer_dir, checkpoint.tokenizer)
    encoder = checkpoint.load("text_encoder").to(place)
    texts = [*(one.caption for one in pictures), ""]
    with torch.inference_mode():
        return torch.cat([encoder(torch.from_numpy(tokenizer.encode(text)).to(place)) for text in texts]).clone()


def _learn(
    checkpoint: Checkpoint,
    unet: nn.Module,
    changes: dict[str, LowRank],
    moments: Tensor,
    contexts: Tensor,
    plan: tuple[int, float, int],
    told: Observer,
) -> Iterator[float]:
    """Every step's smoothed loss. plan: steps, learning rate, pictures a step."""
    steps, learning_rate, batch = plan
    place = moments.device
    kept = torch.as_tensor(alphas_cumprod(checkpoint.sampler), device=place)
    times = torch.as_tensor(sinusoid(range(len(kept)), checkpoint.time_embedding), device=place)
    parameters = [weight for one in changes.values() for weight in (one.down.weight, one.up.weight)]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-2)
    told.start("Learning", steps)
    smoothed: float | None = None
    for _ in range(steps):
        rows = torch.randint(len(moments), (batch,), device=place)
        mean, log_variance = moments[rows].chunk(2, dim=1)
        spread = torch.exp(log_variance.clamp(-30, 20) / 2)
        latents = (mean + spread * torch.randn_like(mean)) * checkpoint.autoencoder_layout.scaling_factor
        dropped = torch.rand(batch, device=place) < CAPTION_DROPOUT
        context = contexts[torch.where(dropped, len(moments), rows)]
        timestep = torch.randint(len(kept), (batch,), device=place)
        signal = kept[timestep].reshape(-1, 1, 1, 1)
        alpha, sigma = signal.sqrt(), (1 - signal).clamp_min(0).sqrt()
        noise = torch.randn_like(latents)
        target = {
            "epsilon": noise,
            "v_prediction": alpha * noise - sigma * latents,
            "sample": latents,
        }[checkpoint.sampler.prediction_type]
        loss = F.mse_loss(unet(alpha * latents + sigma * noise, times[timestep], context), target)
        if not torch.isfinite(loss):
            raise GateError("The loss is no number any more, so nothing was written; learn with a lower learning rate.")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        smoothed = loss.item() if smoothed is None else SMOOTHING * smoothed + (1 - SMOOTHING) * loss.item()
        told.advance()
        yield smoothed


def _write(output: Path, changes: dict[str, LowRank], name: str, pictures: int, steps: int) -> None:
    """The file under diffusers' names, in half precision; alpha is the rank, so nothing is scaled."""
    tensors = {}
    for path, change in changes.items():
        tensors[f"unet.{path}.lora_A.weight"] = change.down.weight.flatten(1).half()
        tensors[f"unet.{path}.lora_B.weight"] = change.up.weight.flatten(1).half()
    said = json.dumps({"checkpoint": name, "pictures": pictures, "steps": steps})
    # One entry: safetensors writes several in an order of chance, and the same seed is to give the same bytes.
    save_tensors(output, tensors, {"sfmobile": said})
