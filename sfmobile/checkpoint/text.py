"""A text encoder of a checkpoint with the tokenizer that it reads by, and what of it a pipeline of its family runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from sfmobile.bundle.pipeline import ComponentKey, TextCondition
from sfmobile.checkpoint.config import pooled_layout, read_config, text_encoder_layout
from sfmobile.checkpoint.tokenizer import MERGES_FILE, VOCAB_FILE, TokenizerConstants, read_tokenizer
from sfmobile.errors import ArtifactError, UsageError
from sfmobile.nets.layout import TextEncoderLayout


@dataclass(frozen=True)
class TextPart:
    """component: the text encoder's name. layout: what of it runs. stored: all that the files hold; positions: of its
    table. tokenizer_name: of the folder `tokenizer_dir`."""

    component: ComponentKey
    layout: TextEncoderLayout
    stored: TextEncoderLayout
    positions: int
    tokenizer_name: ComponentKey
    tokenizer_dir: Path
    tokenizer: TokenizerConstants
    skipped: int = 0

    def with_clip_skip(self, layers: int) -> TextPart:
        """The encoder whose states come so many layers earlier. Raises `UsageError` if no layer would be left."""
        total = self.stored.layers - (0 if self.layout.final_norm else 1)
        if not 0 <= layers < total:
            raise UsageError(f"Of {total} text layers {layers} can't be skipped; expected 0 to {total - 1}.")
        left = total - layers
        if self.layout.projection is not None:
            # What is pooled is behind all of them.
            return replace(self, layout=replace(self.layout, state_layers=left), skipped=layers)
        return replace(self, layout=replace(self.layout, layers=left), skipped=layers)


def read_text_part(root: Path, condition: TextCondition, *, penultimate: bool, pooled: bool) -> TextPart:
    """The text encoder and tokenizer of `condition` in the checkpoint at `root`.

    penultimate: whether the UNet reads the states before the last layer, not normalised, as Stable Diffusion XL does.
    pooled: whether it is given the pooled output too.
    Raises `ArtifactError` for a missing or unknown one, or two that aren't of one model.
    """
    file = root / condition.component / "config.json"
    config = read_config(file)
    stored = pooled_layout(config, file) if pooled else text_encoder_layout(config, file)
    folder = root / condition.tokenizer
    if condition.component != condition.tokenizer and not folder.is_dir():
        raise ArtifactError(
            f"{folder} is missing, the tokenizer of {condition.component}; put {VOCAB_FILE}, {MERGES_FILE} and the "
            "configs of the model's own there: one of another encoder pads in another way."
        )
    tokenizer = read_tokenizer(folder)
    if tokenizer.vocabulary > stored.vocabulary:
        raise ArtifactError(
            f"{folder / VOCAB_FILE} has token ids up to {tokenizer.vocabulary - 1} and the text encoder "
            f"knows {stored.vocabulary} tokens; they are not of one model."
        )
    positions = stored.max_length
    if tokenizer.max_length > positions:
        raise ArtifactError(
            f"{folder / 'tokenizer_config.json'}: 'model_max_length' is {tokenizer.max_length} and the text "
            f"encoder has {positions} positions; they are not of one model."
        )
    layout = replace(stored, max_length=tokenizer.max_length)
    if penultimate:
        if stored.layers < 2:
            raise ArtifactError(f"{file}: 'num_hidden_layers' is {stored.layers}; expected 2 or more.")
        layout = replace(layout, final_norm=False)
    part = TextPart(condition.component, layout, stored, positions, condition.tokenizer, folder, tokenizer)
    return part.with_clip_skip(0) if penultimate else part
