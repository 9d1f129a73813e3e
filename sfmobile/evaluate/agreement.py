"""The score of an evolution: how well a network's pictures agree with prompts that it isn't fine-tuned on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sfmobile.errors import UsageError
from sfmobile.evaluate.contrastive import embed_pictures
from sfmobile.evaluate.metrics.dual_encoder import DualEncoder
from sfmobile.train.data.prompts import evaluation_prompts
from sfmobile.train.data.sprites import Sprite
from sfmobile.train.latents import LatentPool
from sfmobile.train.network_sampler import Encode, Sampler


def prompts_apart(
    sprites: Sequence[Sprite], pool: LatentPool, encode: Encode, kinds: Sequence[str], count: int
) -> list[str]:
    """`count` evaluation prompts of `kinds` in turn, none of which is a caption of the pool.

    Raises `UsageError` if there are fewer.
    """
    known = {tuple(row) for row in pool.input_ids.tolist()}
    lists = []
    for kind in kinds:
        captions = [caption for caption, _ in evaluation_prompts(sprites, kind, limit=len(sprites) * 16)]
        rows = encode(captions).tolist() if captions else []
        lists.append([caption for caption, row in zip(captions, rows, strict=True) if tuple(row) not in known])
    longest = max(map(len, lists), default=0)
    found = [captions[place] for place in range(longest) for captions in lists if place < len(captions)]
    found = list(dict.fromkeys(found))
    if len(found) < count:
        raise UsageError(
            f"Of the kinds {', '.join(kinds)} there are {len(found)} prompts that no fine-tuning caption repeats, "
            f"fewer than the {count} asked for; lower prompts or add kinds."
        )
    return found[:count]


class Agreement:
    """Mean cosine of each prompt's picture with the prompt, by the dual encoder; noise is the same in every call."""

    def __init__(
        self,
        dual_encoder: DualEncoder,
        encode: Encode,
        prompts: Sequence[str],
        *,
        ignored: Sequence[str] = (),
        batch: int = 64,
        first_seed: int = 0,
    ) -> None:
        """ignored: prompts that pictures are made of but that don't count."""
        self.dual_encoder = dual_encoder
        self.prompts = list(prompts)
        self.batch = batch
        self.first_seed = first_seed
        device = dual_encoder.log_scale.device
        self._counts = torch.tensor([prompt not in set(ignored) for prompt in self.prompts], device=device)
        with torch.no_grad():
            parts = torch.split(encode(self.prompts).to(device), 512)
            self._texts = torch.cat([dual_encoder.encode_texts(part) for part in parts])

    def __call__(self, sampler: Sampler) -> float:
        """The agreement of a sampler's pictures, one a prompt."""
        return self.of(self.pictures(sampler))

    def pictures(self, sampler: Sampler) -> Tensor:
        """A picture a prompt, (N, 3, H, W) in [-1, 1]."""
        parts: list[Tensor] = []
        for start in range(0, len(self.prompts), self.batch):
            captions = self.prompts[start : start + self.batch]
            parts.append(sampler(captions, range(self.first_seed + start, self.first_seed + start + len(captions))))
        return torch.cat(parts)

    def of(self, pictures: Tensor) -> float:
        """The agreement of pictures, one a prompt."""
        cosines = (embed_pictures(self.dual_encoder, pictures) * self._texts).sum(dim=1)
        return float(cosines[self._counts].mean())
