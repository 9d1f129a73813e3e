"""Training the dual encoder on the judge's sprites, and its own retrieval on real pictures that it never saw.

Runs without the command line, for machines that have only torch and the sources:
`python -m sfmobile.evaluate.contrastive --config models/recipes/glyph-64/dual-encoder.json --cache … --out …`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from sfmobile.errors import UsageError
from sfmobile.evaluate.metrics.dual_encoder import DualEncoder, DualEncoderLayout
from sfmobile.evaluate.metrics.memorisation import as_float
from sfmobile.evaluate.metrics.retrieval import Retrieval, distinct_texts, retrieval
from sfmobile.files import write_json
from sfmobile.train.config import LoopConfig, read_config
from sfmobile.train.data.split import HELD_OUT, SPLITS
from sfmobile.train.network_sampler import Encode
from sfmobile.train.pictures import Pictures, PicturesConfig, Selection
from sfmobile.train.pretrained.efficientnet_lite import BLOCKS, FEATURES_FILE, EfficientNetLite0
from sfmobile.train.randomness import generator_for
from sfmobile.train.state import load_tensors

if TYPE_CHECKING:
    from sfmobile.train.data.compose import SpritePool
    from sfmobile.train.loop import Observer

TEXT_WIDTH = 192


@dataclass(frozen=True)
class DualEncoderConfig:
    """The dual encoder's stage.

    image_size: side its pictures are resized to; trunk_blocks: blocks of EfficientNet-Lite0 (of 16); embedding: width
    of the shared space; sprites: what it learns from, the union of these selections, none = the judge's part of all;
    kinds: shares of the kinds of composition, None = the data's own.
    Its own retrieval is measured on `compositions` real pictures of `measured_on`, the generator's pictures (a
    settings file beside this one, None = all sprites), as far as they belong to the splits `unseen`.
    """

    loop: LoopConfig
    image_size: int = 128
    trunk_blocks: int = BLOCKS
    compositions: int = 1024
    text_layers: int = 2
    embedding: int = 192
    sprites: tuple[Selection, ...] = ()
    kinds: dict[str, float] | None = None
    measured_on: str | None = None
    unseen: tuple[str, ...] = (HELD_OUT,)


def contrastive_loss(images: Tensor, texts: Tensor, same_text: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of unit rows (B, D); pairs with the same text (B, B, boolean) share the target equally.

    Compositions repeat captions within a batch; counting a true caption as a negative would teach the wrong thing.
    """
    logits = scale * images @ texts.T
    target = same_text.to(logits.dtype)
    target = target / target.sum(dim=1, keepdim=True)
    by_image = -(target * functional.log_softmax(logits, dim=1)).sum(dim=1)
    by_text = -(target * functional.log_softmax(logits.T, dim=1)).sum(dim=1)
    return (by_image.mean() + by_text.mean()) / 2


class ContrastiveObjective(nn.Module):
    """forward(images (B, 3, H, W), input_ids (B, S)) -> {"loss", "recall_at_1" within the batch}."""

    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor, input_ids: Tensor) -> dict[str, Tensor]:
        """Loss of one batch; negatives are the batch's own other pairs (of this process)."""
        of_images, of_texts = self.encoder.image(images), self.encoder.text(input_ids)
        # bfloat16 can't tell apart cosines that the temperature blows up.
        with torch.autocast(images.device.type, enabled=False):
            of_images = functional.normalize(of_images.float(), dim=1)
            of_texts = functional.normalize(of_texts.float(), dim=1)
            same = (input_ids[:, None, :] == input_ids[None, :, :]).all(dim=2)
            scale = self.encoder.log_scale.exp().clamp_max(100.0)
            loss = contrastive_loss(of_images, of_texts, same, scale)
            nearest = (of_images @ of_texts.T).argmax(dim=1)
            hits = same[torch.arange(len(same), device=same.device), nearest].float().mean()
        return {"loss": loss, "recall_at_1": hits}


class ContrastiveTraining:
    """Draws distorted compositions of the judge's sprites with their captions' tokens."""

    def __init__(self, config: DualEncoderConfig, encoder: DualEncoder, pool: SpritePool, encode: Encode) -> None:
        self.name = "dual-encoder"
        self.config = config
        self.objective: nn.Module = ContrastiveObjective(encoder)
        self.pool = pool
        self.encode = encode

    def inputs(self, index: int, batch_size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Micro step `index`."""
        from sfmobile.train.data.compose import compose_batch

        seed = self.config.loop.seed
        images, captions, _ = compose_batch(self.pool, index, batch_size, seed)
        generator = generator_for(device, self.name, seed, index)
        changed = distorted(images.to(device), generator).contiguous(memory_format=torch.channels_last)
        return changed, self.encode(captions).long().to(device)


def distorted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Small turns, stretches, shifts of tone, blur and noise, so that a generator's flaws aren't all a surprise.

    Nothing that a caption speaks of changes: no flips, no large shifts, no changes of hue.
    """
    count, device = len(images), images.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator, device=device)

    angle, stretch = uniform(-0.2, 0.2), uniform(0.88, 1.12, 2)
    shear = uniform(-0.12, 0.12)
    theta = torch.zeros(count, 2, 3, device=device)
    theta[:, 0, 0] = angle.cos() * stretch[:, 0]
    theta[:, 0, 1] = -angle.sin() + shear
    theta[:, 1, 0] = angle.sin()
    theta[:, 1, 1] = angle.cos() * stretch[:, 1]
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    images = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    half = functional.interpolate(functional.avg_pool2d(images, 2), images.shape[-2:], mode="bilinear")
    images = torch.lerp(images, half, uniform(-0.5, 1.0, 1, 1, 1).clamp_min(0.0))
    images = images * uniform(0.88, 1.08, 1, 1, 1) + uniform(-0.06, 0.06, 1, 1, 1)
    noise = torch.randn(images.shape, generator=generator, device=device)
    return (images + noise * uniform(-0.06, 0.06, 1, 1, 1).clamp_min(0.0)).clamp(-1.0, 1.0)


def caption_vocabulary(pool: SpritePool, encode: Encode, batches: int = 64) -> Tensor:
    """Sorted ids of every token that captions of these sprites use: their phrases, plurals and tags, and the words
    around them as they occur in `batches` batches of scenes."""
    from sfmobile.train.data.english import plural
    from sfmobile.train.data.scenes import Composer

    texts = {text for sprite in pool.sprites for text in (sprite.phrase, plural(sprite.phrase), *sprite.tags) if text}
    composer = Composer(pool.sprites, SPLITS, judge=True)
    for index in range(batches):
        texts.update(composer.compose(index, 256, seed=0).captions)
    return torch.unique(encode(sorted(texts)))


def new_dual_encoder(
    config: DualEncoderConfig, vocabulary: Tensor, features: Path | None, token_init: Path | None
) -> DualEncoder:
    """An encoder before training; `features` and `token_init` are converted weights to start the two towers from."""
    torch.manual_seed(config.loop.seed)
    layout = DualEncoderLayout(
        vocabulary=len(vocabulary),
        image_size=config.image_size,
        trunk_blocks=config.trunk_blocks,
        text_layers=config.text_layers,
        text_width=TEXT_WIDTH,
        embedding=config.embedding,
    )
    encoder = DualEncoder(layout)
    encoder.text.vocabulary.copy_(vocabulary)
    if features is not None:
        # A shorter trunk takes the first blocks.
        weights = EfficientNetLite0.from_file(features).trunk.state_dict()
        encoder.image.trunk.load_state_dict({name: weights[name] for name in encoder.image.trunk.state_dict()})
    if token_init is not None:
        rows = load_tensors(token_init)[0]["token_embedding"]
        if rows.shape[1] != layout.text_width:
            raise UsageError(f"{token_init}: expected {layout.text_width} columns, found {rows.shape[1]}.")
        with torch.no_grad():
            encoder.text.token_embedding.weight[1:] = rows[vocabulary.long()].float()
    return encoder


def train_dual_encoder(
    pool: SpritePool,
    config: DualEncoderConfig,
    encode: Encode,
    directory: Path,
    *,
    features: Path | None = None,
    token_init: Path | None = None,
    measured: SpritePool | None = None,
    observer: Observer | None = None,
    cpu: bool = False,
) -> DualEncoder:
    """Train to the last step, from the last checkpoint in `directory` if there is one.

    pool: the judge's sprites, on the device; measured: what its own retrieval is measured on, by default the held-out
    sprites of `pool`. Writes `dual_encoder.safetensors` (fp16) and `retrieval.json` beside the
    checkpoint; returns the encoder as read back from that file, on the pool's device.
    """
    from sfmobile.train.loop import TrainingLoop

    encoder = new_dual_encoder(config, caption_vocabulary(pool, encode), features, token_init)
    # Depthwise convolutions are a third faster this way round on a CPU, too.
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    training = ContrastiveTraining(config, encoder, pool, encode)
    averaged = TrainingLoop(training, config.loop, directory, observer, cpu=cpu).run()
    encoder.load_state_dict({name.removeprefix("encoder."): value for name, value in averaged.items()}, strict=False)
    path = directory / "dual_encoder.safetensors"
    encoder.save(path)
    trained = DualEncoder.load(path).to(pool.pixels.device)
    figures = own_retrieval(trained, measured or pool, encode, config.compositions, config.unseen)
    write_json(directory / "retrieval.json", {name: asdict(value) for name, value in figures.items()})
    return trained


@torch.no_grad()
def own_retrieval(
    encoder: DualEncoder,
    pool: SpritePool,
    encode: Encode,
    compositions: int = 1024,
    unseen: Sequence[str] = (HELD_OUT,),
) -> dict[str, Retrieval]:
    """The encoder's own R@1 and R@5 on real pictures of `pool` that it wasn't trained on.

    "drawings among held-out": each held-out concept × style drawing among the captions of all of them;
    "drawings among all": among the captions of every concept there is; "compositions": composed pictures of held-out
    drawings among their own captions. Held-out drawings are new to the generator, too. Where the encoder saw none of
    the sprites of further splits either (`unseen`), "... new to it" are of all of those.
    """
    from sfmobile.evaluate.prompt_sets import distribution_prompts, recognition_prompts

    def of(splits: Sequence[str], suffix: str) -> dict[str, Retrieval]:
        drawings = recognition_prompts(pool, splits=splits)
        composed = distribution_prompts(pool, compositions, splits, seed=17)
        shown = embed_pictures(encoder, drawings.pictures)
        return {
            f"drawings{suffix} among all": recognised(encoder, encode, shown, drawings.texts, concept_texts(pool)),
            f"compositions{suffix}": recognised(
                encoder, encode, embed_pictures(encoder, composed.pictures), composed.texts
            ),
        }

    drawings = recognition_prompts(pool)
    shown = embed_pictures(encoder, drawings.pictures)
    figures = {"drawings among held-out": recognised(encoder, encode, shown, drawings.texts), **of((HELD_OUT,), "")}
    return figures if tuple(unseen) == (HELD_OUT,) else figures | of(unseen, " new to it")


def concept_texts(pool: SpritePool) -> list[str]:
    """The text of every concept there is, without style or tone."""
    from sfmobile.train.data.english import with_article

    return sorted({with_article(sprite.phrase) for sprite in pool.sprites if sprite.tone is None})


@torch.no_grad()
def embed_pictures(encoder: DualEncoder, pictures: Tensor, batch: int = 128) -> Tensor:
    """Unit vectors (N, D) of pictures (N, 3, H, W), uint8 or in [-1, 1], on the encoder's device."""
    device = encoder.log_scale.device
    return torch.cat([encoder.encode_images(as_float(part.to(device))) for part in torch.split(pictures, batch)])


@torch.no_grad()
def recognised(
    encoder: DualEncoder, encode: Encode, of_pictures: Tensor, texts: Sequence[str], others: Sequence[str] = ()
) -> Retrieval:
    """How well pictures, as unit vectors, are matched to their own texts among all of `texts` and `others`."""
    ids, own = distinct_texts(encode([*texts, *others]).to(of_pictures.device))
    of_texts = torch.cat([encoder.encode_texts(part) for part in torch.split(ids, 512)])
    return retrieval(of_pictures, of_texts, own[: len(texts)])


def train_from_cache(
    config: Path, cache: Path, directory: Path, *, observer: Observer | None = None, cpu: bool = False
) -> DualEncoder:
    """Train by the settings in `config` on the sprites in `cache`, the towers started from the weights there.

    The feature network is fetched and the token embedding computed if the cache lacks them.
    """
    from sfmobile.train.data.tokens import TOKENIZER_DIR, CaptionTokenizer
    from sfmobile.train.pretrained.token_init import write_token_embedding

    settings = read_config(DualEncoderConfig, config)
    device = torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")
    pool = _judges_sprites(cache, settings, device)
    measured = None
    if settings.measured_on is not None:
        pictures = read_config(PicturesConfig, config.with_name(f"{settings.measured_on}.json"))
        measured = Pictures.open(cache, pictures, device).pool
    EfficientNetLite0.load(cache)
    tokens = cache / "metrics" / f"token_init_{TEXT_WIDTH}.safetensors"
    if not tokens.exists():
        write_token_embedding(tokens, TOKENIZER_DIR / "vocab.json", cache, TEXT_WIDTH)
    tokenizer = CaptionTokenizer()
    return train_dual_encoder(
        pool,
        settings,
        lambda captions: torch.as_tensor(tokenizer.encode_batch(captions)),
        directory,
        features=cache / "metrics" / FEATURES_FILE,
        token_init=tokens,
        measured=measured,
        observer=observer,
        cpu=cpu,
    )


def _judges_sprites(cache: Path, settings: DualEncoderConfig, device: torch.device) -> SpritePool:
    """What the encoder learns from, at its own picture size; it may see pairs that are held out of the generator."""
    from sfmobile.train.data.compose import load_pool
    from sfmobile.train.data.scenes import Composer
    from sfmobile.train.data.split import JUDGE
    from sfmobile.train.data.sprites import find_cache

    pool = load_pool(find_cache(cache), "cpu")
    rows = {
        row
        for chosen in settings.sprites or (Selection(splits=(JUDGE,)),)
        for row in chosen.rows(pool.sprites)
        if pool.sprites[row].split in chosen.splits
    }
    kept = sorted(rows)
    sprites = [pool.sprites[row] for row in kept]
    pixels = shrunk(pool.pixels[torch.tensor(kept)], settings.image_size).to(device)
    return type(pool)(sprites, pixels, Composer(sprites, SPLITS, settings.kinds, judge=True))


def shrunk(pixels: Tensor, side: int) -> Tensor:
    """Sprites uint8 (N, 4, S, S) at a smaller side, by areas; unchanged if they aren't larger."""
    if pixels.shape[-1] <= side:
        return pixels
    parts = [
        functional.interpolate(part.float(), (side, side), mode="area").round().to(torch.uint8)
        for part in torch.split(pixels, 256)
    ]
    return torch.cat(parts)


def main() -> None:
    """Command-line entry without third-party packages."""
    parser = argparse.ArgumentParser(description="Train the dual encoder that measures text-image agreement.")
    parser.add_argument("--config", type=Path, required=True, help="JSON of DualEncoderConfig")
    parser.add_argument("--cache", type=Path, required=True, help="sprites, and metrics/*.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="directory of the run; resumed if it exists")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    train_from_cache(
        options.config,
        options.cache,
        options.out,
        observer=lambda progress: print(json.dumps(asdict(progress)), flush=True),
        cpu=options.cpu,
    )
    print((options.out / "retrieval.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
