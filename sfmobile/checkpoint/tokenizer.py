"""CLIP tokenizer directories: vocabulary, merges, added and special tokens, in either of the two forms they come in.

`vocab.json` and `merges.txt` are the original form and the one bundles hold; transformers 5 writes `tokenizer.json`
alone. Which of the files decides where several speak is transformers' order (`PreTrainedTokenizerBase`), since that is
what diffusers reads by.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from sfmobile.checkpoint.config import Json, read_config
from sfmobile.errors import ArtifactError
from sfmobile.files import copy_inside, json_text, read_text, validated

VOCAB_FILE = "vocab.json"
MERGES_FILE = "merges.txt"
FAST_FILE = "tokenizer.json"
ADDED_FILE = "added_tokens.json"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_FILE = "special_tokens_map.json"
CONFIG_FILES = (CONFIG_FILE, SPECIAL_FILE, ADDED_FILE, "README.md")
MAX_LENGTH = 77
MEND = "copy it again"
LINK_MEND = "put the file itself there if the bundle is to hold it"
# No text encoder has so many positions.
_UNLIMITED = 1 << 20
DECODER_KEY = "added_tokens_decoder"
# In transformers' order, which decides the ids of those that the vocabulary lacks.
SPECIAL_NAMES: Json = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
_NO_STRIPPING = {"lstrip": False, "rstrip": False, "single_word": False, "special": False}
_TokenId = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
# The keys of a JSON object are strings.
_DecimalId = Annotated[int, Field(ge=0, lt=2**31)]
SPECIAL_LISTS = ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens")
# Another value of these gives other ids, in ways that sfmobile's tokenizer hasn't.
_FIXED: Json = {"padding_side": "right", "truncation_side": "right", "split_special_tokens": False}


@dataclass(frozen=True)
class TokenizerConstants:
    """`vocabulary` is one more than the largest token id; `max_length`, how many tokens a text is padded to.

    added_tokens: found in a prompt as they are, before it is cut into words, whatever the case of its letters.
    exact_tokens: the same, as they are written. Both by token; start and end of text are among them.
    """

    vocabulary: int
    max_length: int
    bos_token_id: int
    eos_token_id: int
    pad_token_id: int
    added_tokens: dict[str, int] = field(default_factory=dict)
    exact_tokens: dict[str, int] = field(default_factory=dict)


class _AddedToken(BaseModel):
    """transformers' AddedToken. `lstrip` and `rstrip` change nothing: white space beside a token is no token here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    content: str
    normalized: bool | None = None
    special: bool = False
    single_word: bool = False

    @property
    def exact(self) -> bool:
        """Whether the prompt is searched as it was typed; as in transformers, special tokens are unless they say."""
        return not self.normalized if self.normalized is not None else self.special


def read_tokenizer(folder: Path) -> TokenizerConstants:
    """Constants of the CLIP tokenizer in `folder`; raises `ArtifactError` if a file is missing or an id unknown.

    Special tokens are those of `special_tokens_map.json`, or of `tokenizer_config.json` where that lists the added
    tokens too; CLIP's own where neither names them. Stable Diffusion 2 pads with "!" and not with the end token.
    """
    vocab = read_vocabulary(folder)
    if not any((folder / file).is_file() for file in (MERGES_FILE, FAST_FILE)):
        raise ArtifactError(
            f"{folder / MERGES_FILE} is missing; expected CLIP's byte-pair merges beside the vocabulary."
        )
    config = _optional(folder / CONFIG_FILE)
    for key, value in _FIXED.items():
        if config.get(key, value) != value:
            raise ArtifactError(
                f"{folder / CONFIG_FILE}: '{key}' is {config[key]!r}; expected {value!r}, as CLIP was trained: set it "
                "to that if it was never meant."
            )
    names = SPECIAL_NAMES | _special_names(config)
    if config.get(DECODER_KEY) is None:
        names |= _special_names(_optional(folder / SPECIAL_FILE))
    for key in ("bos_token", "eos_token"):
        if _content(names[key], folder) not in vocab:
            raise ArtifactError(_unknown_special(folder, names[key]))
    listed = _listed_tokens(folder, config, names)
    special_tokens = list(_special_tokens(names, folder))
    tokens = _numbered(folder, vocab, listed, special_tokens)
    ids = {token.content: index for index, token in tokens.items()}
    return TokenizerConstants(
        vocabulary=max(*vocab.values(), *tokens) + 1,
        max_length=_max_length(config.get("model_max_length", MAX_LENGTH), folder / CONFIG_FILE),
        **{f"{key}_id": ids[_content(names[key], folder)] for key in ("bos_token", "eos_token", "pad_token")},
        added_tokens={token.content: index for index, token in tokens.items() if not token.exact},
        exact_tokens={token.content: index for index, token in tokens.items() if token.exact},
    )


def _special_names(config: Json) -> Json:
    """What a file says of special tokens. A key of anyone's own that ends in `_token` names one too: those that CLIP
    has no use for are found in a text all the same."""
    return {
        key: value
        for key, value in config.items()
        if value and (key in SPECIAL_NAMES or key in SPECIAL_LISTS or _names_token(key, value))
    }


def _names_token(key: str, value: Any) -> bool:
    return key.endswith("_token") and isinstance(value, (str, dict))


def _max_length(value: object, file: Path) -> int:
    # transformers writes 1e30 where nobody said, as a float or as a whole number.
    if isinstance(value, (int, float)) and value > _UNLIMITED:
        return MAX_LENGTH
    if not isinstance(value, int) or isinstance(value, bool) or value < 2:
        raise ArtifactError(f"{file}: 'model_max_length' is {value!r}; expected 2 tokens or more; {MEND}.")
    return value


def _listed_tokens(folder: Path, config: Json, names: Json) -> dict[int, _AddedToken]:
    """Added tokens by id, as the files list them."""
    decoder = config.get(DECODER_KEY)
    named = {_content(name, folder) for key in SPECIAL_NAMES for name in [names[key]]}
    plain: dict[str, int] = {}
    if (folder / ADDED_FILE).is_file():
        where = f"'{folder / ADDED_FILE}'"
        plain = validated(dict[str, _TokenId], read_config(folder / ADDED_FILE), where, "ids by added token", MEND)
    fast = _fast_tokens(folder)
    if decoder is not None:
        where = f"'{folder / CONFIG_FILE}'"
        listed = validated(dict[_DecimalId, _AddedToken], decoder, where, "added tokens by id", MEND)
        known = {token.content for token in listed.values()}
        for file, others in ((ADDED_FILE, plain), (FAST_FILE, {token.content: 0 for token in fast.values()})):
            for token in others:
                if token not in known:
                    raise ArtifactError(
                        f"{folder / file} adds the token '{token}', and {CONFIG_FILE} lists the added tokens without "
                        f"it; transformers reads that list alone, so put '{token}' into it or take it out of {file}."
                    )
        return listed
    listed = {}
    for token, index in plain.items():
        if index in listed:
            raise ArtifactError(f"{folder / ADDED_FILE} gives '{listed[index].content}' and '{token}' one id, {index}.")
        listed[index] = _AddedToken(content=token, normalized=token not in named, special=token in named)
    return listed | fast


def _fast_tokens(folder: Path) -> dict[int, _AddedToken]:
    """The added tokens of `tokenizer.json`, by id."""
    file = folder / FAST_FILE
    if not file.is_file():
        return {}
    entries = read_config(file).get("added_tokens") or []
    listed = validated(list[dict[str, Any]], entries, f"'{file}'", "a list of added tokens", MEND)
    tokens = {}
    for entry in listed:
        index = validated(_TokenId, entry.get("id"), f"'{file}'", "an added token with its id", MEND)
        tokens[index] = validated(_AddedToken, entry, f"'{file}'", "an added token", MEND)
    return tokens


def _special_tokens(names: Json, folder: Path) -> Iterator[_AddedToken]:
    several = [name for key, name in names.items() if key not in SPECIAL_NAMES and key not in SPECIAL_LISTS]
    for key in SPECIAL_LISTS:
        value = names.get(key) or []
        several += value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    for name in [*(names[key] for key in SPECIAL_NAMES), *several]:
        flags = {"normalized": name.get("normalized")} if isinstance(name, dict) else {}
        yield validated(
            _AddedToken,
            {"content": _content(name, folder), **flags, "special": True},
            f"The configuration in {folder}",
            "one with special tokens",
            MEND,
        )


def _numbered(
    folder: Path, vocab: Mapping[str, int], listed: Mapping[int, _AddedToken], special: list[_AddedToken]
) -> dict[int, _AddedToken]:
    """Added and special tokens by the ids that the `tokenizers` engine gives them, which must be those of the files.

    A token of the vocabulary keeps its id; others are numbered on, in the order of the files' ids.
    """
    tokens: dict[int, _AddedToken] = {}
    folded: dict[str, str] = {}
    wanted = [(index, token) for index, token in sorted(listed.items())]
    known = {token.content for _, token in wanted}
    for token in special:
        # One that isn't in the vocabulary would get a row of the table that nothing fills.
        if token.content not in known and token.content not in vocab:
            raise ArtifactError(_unknown_special(folder, token.content))
    wanted += [(vocab[token.content], token) for token in special if token.content not in known]
    numbered: dict[str, int] = {}
    for index, token in wanted:
        largest = max(tokens, default=-1)
        expected = numbered.get(token.content, vocab.get(token.content, max(len(vocab), largest + 1)))
        if index != expected:
            raise ArtifactError(
                f"The tokenizer in {folder} gives the added token '{token.content}' the id {index}, and transformers "
                f"would give it {expected}; number the added tokens on from the vocabulary's {len(vocab)}."
            )
        if token.single_word:
            raise ArtifactError(
                f"The tokenizer in {folder} takes '{token.content}' for a token only where it is a whole word "
                "(single_word), which sfmobile doesn't; set it to false if that is meant."
            )
        plain = normalized(token.content)
        if not plain.strip():
            raise ArtifactError(f"The tokenizer in {folder} adds a token of nothing but white space; take it out.")
        if folded.setdefault(plain, token.content) != token.content:
            raise ArtifactError(
                f"The tokenizer in {folder} adds '{folded[plain]}' and '{token.content}', which are one token where "
                "case doesn't count; rename one."
            )
        # Of a special token that is named twice, transformers takes the later form.
        tokens[index] = token
        numbered[token.content] = index
    return tokens


def normalized(text: str) -> str:
    """`text` as CLIP's tokenizer sees it: composed (NFC), white space as single spaces, each character lowered."""
    composed = unicodedata.normalize("NFC", text)
    spaced = "".join(" " if character.isspace() else character.lower() for character in composed)
    while "  " in spaced:
        spaced = spaced.replace("  ", " ")
    return spaced


def _optional(file: Path) -> Json:
    return read_config(file) if file.is_file() else {}


def read_vocabulary(folder: Path) -> dict[str, int]:
    """Token ids by token, from whichever form `folder` holds."""
    file = folder / VOCAB_FILE
    fast = folder / FAST_FILE
    if file.is_file() or not fast.is_file():
        vocab = read_config(file)
        if fast.is_file() and _fast_model(fast).get("vocab", {}) != vocab:
            raise ArtifactError(
                f"{file} and {FAST_FILE} beside it hold different vocabularies, and transformers reads the second; "
                "delete the one that isn't the text encoder's."
            )
    else:
        file = fast
        vocab = _fast_model(file).get("vocab", {})
    ids = validated(dict[str, _TokenId], vocab, f"'{file}'", "a vocabulary of whole numbers by token", MEND)
    if not ids:
        raise ArtifactError(f"'{file}' holds no token: expected a vocabulary of whole numbers by token; {MEND}.")
    return ids


def read_merges(folder: Path, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Pairs of tokens to merge, in order of priority; each of the three tokens must be in `vocab`."""
    file = folder / MERGES_FILE
    if file.is_file() or not (folder / FAST_FILE).is_file():
        pairs = _merge_lines(file)
    else:
        file = folder / FAST_FILE
        pairs = _fast_model(file).get("merges", [])
    merges = []
    # transformers writes a pair as "a b" up to version 4 and as ["a", "b"] since.
    for pair in validated(list[str | tuple[str, str]], pairs, f"'{file}'", "byte-pair merges", MEND):
        first, second = pair.partition(" ")[::2] if isinstance(pair, str) else pair
        if first not in vocab or second not in vocab or first + second not in vocab:
            raise ArtifactError(
                f"{file}: '{first} {second}' is no merge of two tokens of the vocabulary; copy it again."
            )
        merges.append((first, second))
    return merges


def _merge_lines(file: Path) -> list[str]:
    lines = read_text(file, "CLIP's byte-pair merges beside the vocabulary", MEND).split("\n")
    # The first line names the version; a token may itself begin with "#".
    start = 1 if lines[0].startswith("#version") else 0
    return [line for line in lines[start:] if line]


def _fast_model(file: Path) -> Json:
    model = read_config(file).get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise ArtifactError(f"{file} holds no byte-pair model; expected CLIP's tokenizer.")
    return model


def _content(name: Any, folder: Path) -> str:
    # transformers writes special tokens as strings or as objects with their content.
    token = name.get("content") if isinstance(name, dict) else name
    if not isinstance(token, str) or not token:
        raise ArtifactError(_unknown_special(folder, token))
    return token


def _unknown_special(folder: Path, name: Any) -> str:
    token = name.get("content") if isinstance(name, dict) else name
    return f"The vocabulary in {folder} has no token '{token}', which its config names as special."


def with_tokens(constants: TokenizerConstants, folder: Path, tokens: Sequence[str], file: Path) -> TokenizerConstants:
    """The constants with the `tokens` of `file` added behind the others of `folder`.

    Raises `ArtifactError` for a token that the vocabulary has, or that another token is where case doesn't count.
    """
    vocab = read_vocabulary(folder)
    added = dict(constants.added_tokens)
    known = {normalized(token): token for token in (*added, *constants.exact_tokens)}
    for token in tokens:
        plain = normalized(token)
        taken = token if token in vocab else known.get(plain)
        if taken is not None or not plain.strip():
            why = f"the tokenizer has '{taken}' already" if taken is not None else "it is nothing but white space"
            raise ArtifactError(
                f"{file}: '{token}' can't be its token, since {why}; name another with --embedding FILE:TOKEN, such as "
                f"<{file.stem}>."
            )
        known[plain] = token
        added[token] = max(len(vocab), max((*added.values(), *constants.exact_tokens.values()), default=-1) + 1)
        if added[token] < constants.vocabulary:
            raise ArtifactError(
                f"The vocabulary in {folder} leaves out ids below {constants.vocabulary}, so a token can't be added "
                "behind it; use a tokenizer whose ids follow each other."
            )
    return replace(constants, added_tokens=added, vocabulary=constants.vocabulary + len(tokens))


def copy_tokenizer(source: Path, target: Path, constants: TokenizerConstants | None = None) -> None:
    """Put the tokenizer of `source` into `target`, as vocab.json and merges.txt whatever form `source` has.

    constants: with tokens that `source` doesn't have.
    """
    target.mkdir(parents=True, exist_ok=True)
    if (source / VOCAB_FILE).is_file():
        for file in (VOCAB_FILE, MERGES_FILE):
            copy_inside(source / file, target / file, source.resolve().parent, LINK_MEND)
    else:
        vocab = read_vocabulary(source)
        (target / VOCAB_FILE).write_text(json_text(vocab), encoding="utf-8")
        lines = ["#version: 0.2", *(f"{first} {second}" for first, second in read_merges(source, vocab)), ""]
        (target / MERGES_FILE).write_text("\n".join(lines), encoding="utf-8")
    for file in CONFIG_FILES:
        if (source / file).is_file():
            copy_inside(source / file, target / file, source.resolve().parent, LINK_MEND)
    config = _optional(source / CONFIG_FILE)
    if config.get(DECODER_KEY) is None and _fast_tokens(source):
        # What the file that isn't copied says of added tokens, in the form that stands beside a vocabulary.
        constants = constants or read_tokenizer(source)
    elif constants is not None:
        own = read_tokenizer(source)
        if (own.added_tokens, own.exact_tokens) == (constants.added_tokens, constants.exact_tokens):
            constants = None
    if constants is not None:
        config[DECODER_KEY] = {
            str(index): {"content": token, "normalized": tokens is constants.added_tokens, **_NO_STRIPPING}
            for tokens in (constants.added_tokens, constants.exact_tokens)
            for token, index in tokens.items()
        }
        special = _optional(source / SPECIAL_FILE)
        config |= {key: special[key] for key in SPECIAL_NAMES if key in special}
        (target / CONFIG_FILE).write_text(json_text(config), encoding="utf-8")
