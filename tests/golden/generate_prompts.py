"""Writes prompts.json: `python -m tests.golden.generate_prompts MODULE`.

MODULE is the file multi_emphasis_prompt.py of stablepy 0.6.5 (`pip download --no-deps stablepy`, unpacked), which has
the text engine of the AUTOMATIC1111 and Forge web UIs over a transformers text encoder. It is run here and nowhere
else: the tests of both languages read what it said. Token ids come from transformers' CLIPTokenizer.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.golden.generate import GOLDEN, TOKENIZER

LONG = "a detailed oil painting of a lighthouse on a cliff above the sea, " * 8
WEIGHTED = (
    "a (red:1.3) apple",
    "a ((red)) apple on a [wooden] table",
    "(a (very:1.5) red (shiny) apple)",
    "[[dull]] [(bright)] ((([deep])))",
    "an emoticon \\(smiling\\) and \\[square\\] and \\\\ and a \\lone backslash",
    "unclosed (here and [there",
    "closed too often) and ] and :1.4) again",
    "no number (here:) or (there: or (so :1.2 )",
    "spaces ( in :  0.5  ) brackets, time 12:30 and (ratio 16:9)",
    "(negative:-0.5) (none:0) (plus:+1.25) (point:.7)",
    "a horse BREAK a (blue:1.2) bird",
    "BREAK first BREAK BREAK last BREAK",
    "BREAKfast isn't a BREAK, but:BREAK\\(is\\)",
    "",
    "()",
    "(😀 emoji:1.4) [红苹果] (café:0.8)",
    "It's (2024's:1.1) BEST",
    LONG,
    f"({LONG}:1.2) [in the evening]",
    "word " * 160,
    "one two three four five, " + "word " * 69 + "(six:1.5) seven eight",
    "one two, " + "word " * 55 + ", a comma within reach, " + "(heavy:1.4) " * 9 + "end",
    "word " * 75 + ", a comma at the end of a chunk",
    "word " * 75,
    "word " * 74 + ", behind, the (comma:1.1)",
    "word " * 54 + ", " + "word " * 30,
    "word " * 55 + ", " + "word " * 30,
)


def engine(module: Any, emphasis: str) -> Any:
    from transformers import CLIPTokenizer

    return module.ClassicTextProcessingEngine(
        SimpleNamespace(device=SimpleNamespace(type="cpu")),
        CLIPTokenizer.from_pretrained(TOKENIZER),
        emphasis_name=emphasis,
    )


def read(module: Any, syntax: str, text: str) -> dict[str, Any]:
    chunks, _ = engine(module, {"plain": "None", "a1111": "Original"}[syntax]).tokenize_line(text)
    return {
        "syntax": syntax,
        "text": text,
        "chunks": [{"ids": chunk.tokens, "weights": chunk.multipliers} for chunk in chunks],
    }


def weigh(module: Any, seed: int) -> dict[str, Any]:
    """Hidden states (S, C) of a short chunk, and what the weights make of them."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(1, 7, 5, generator=generator) + 0.3
    weights = torch.tensor([[1.0, 1.3, 1.1, 0.9090909, 0.0, -0.5, 1.0]])
    emphasis = module.EmphasisOriginal()
    emphasis.multipliers, emphasis.z = weights, states
    emphasis.after_transformers()
    return {"states": states[0].tolist(), "weights": weights[0].tolist(), "weighed": emphasis.z[0].tolist()}


def main() -> None:
    spec = importlib.util.spec_from_file_location("multi_emphasis_prompt", Path(sys.argv[1]))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    content = {
        "prompts": [
            read(module, syntax, text)
            for syntax, texts in (("a1111", WEIGHTED), ("plain", ("a (red:1.3) BREAK apple", LONG)))
            for text in texts
        ],
        "emphasis": [weigh(module, seed) for seed in range(3)],
    }
    lines = (
        json.dumps(content, ensure_ascii=False).replace('{"syntax"', '\n{"syntax"').replace('{"states"', '\n{"states"')
    )
    (GOLDEN / "prompts.json").write_text(f"{lines}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
