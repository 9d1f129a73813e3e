"""Texts whose token ids Python and Swift must agree on: prompts as people write them, and what breaks tokenizers."""

from __future__ import annotations

import random
import unicodedata

SUBJECTS = (
    "a red apple",
    "an astronaut riding a horse",
    "a corgi wearing sunglasses",
    "a cup of coffee",
    "three blue birds on a wire",
    "the Eiffel Tower at night",
    "a bowl of ramen",
    "an old man with a white beard",
    "a steam locomotive",
    "a knight's armour",
    "two cats, one black and one white",
    "a lighthouse on a cliff",
    "a vintage 1967 Ford Mustang",
    "a hand-drawn map of an island",
    'a robot holding a sign that says "HELLO"',
    "a glass jar of pickles",
)
STYLES = (
    "",
    ", oil painting",
    " in the style of Van Gogh",
    ", 4k, highly detailed, trending on artstation",
    ", isometric, low-poly",
    " | studio lighting | bokeh",
    ", photo taken with a 50mm f/1.8 lens",
    " -- pencil sketch, b&w",
)

HANDWRITTEN = (
    "",
    " ",
    "\n",
    "a",
    "A",
    "the THE The tHe",
    "I'm you're he's she'll we've they'd don't",
    "I'M YOU'RE HE'S SHE'LL WE'VE THEY'D DON'T",
    "it's it’s its'",
    "'s 't 're 've 'm 'll 'd ''s 'sa 'rex 'tt",
    "rock'n'roll o'clock 'tis 'twas",
    "0 1 12 123 1234567890",
    "3.14159 1,000,000 1e-5 0x1F 50% $9.99 #1",
    "a1b2c3 r2d2 4k 8K 1080p H2O CO₂ x² ½ ⅓ Ⅷ ① ㊿",
    "!!! ??? ... --- ___ *** ### @@@ && || ~~",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "(((masterpiece))), [best quality:1.2], {{detailed}}",
    "https://example.com/a?b=c&d=e#f user@example.org C:\\Users\\x",
    "snake_case camelCase kebab-case PascalCase SCREAMING_CASE",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "&amp; &lt;b&gt; &quot;x&quot; &#39; &#x41; &nbsp; &eacute; &amp;amp;",
    "<b>bold</b> <!-- comment --> <br/>",
    "<|startoftext|>",
    "<|endoftext|>",
    "a<|endoftext|>b",
    "<|startoftext|>a photo<|endoftext|>",
    "!!<|endoftext|>!!",
    "<|endoftext",
    "<|ENDOFTEXT|> shouted",
    "< |endoftext|>",
    "<<|endoftext|>>",
    "two  spaces   three    four",
    "tab\there\t\ttwo",
    "line\nbreaks\r\nand\rreturns\n\n\n",
    "  leading and trailing  ",
    "no\u00a0break narrow\u202fbreak thin\u2009space em\u2003space ideographic\u3000space",
    "next\u0085line line\u2028separator paragraph\u2029separator vertical\u000btab form\u000cfeed",
    "zero\u200bwidth joiner\u200dhere non\u200cjoiner word\u2060joiner \ufeffbom",
    "soft\u00adhyphen mongolian\u180evowel",
    "nul\u0000byte bell\u0007 escape\u001b[31m delete\u007f",
    "\u001c\u001d\u001e\u001f separators",
    "café cafe\u0301 CAFÉ CAFE\u0301",
    "ñandú n\u0303andu\u0301 Ångström A\u030angstro\u0308m \u212b",
    "Zürich Straße STRASSE ẞ ß ﬁ ﬂ ﬀ Ĳ ĳ Ǆ ǅ ǆ",
    "e\u0301\u0302\u0303\u0304\u0323 stacked",
    "q\u0307\u0323 q\u0323\u0307 order of marks",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢L̠ͨͧͩ͘G̴̻͈͍͔̹̑͗̎̅͛́Ǫ̵̹̻̝̳͂̌̌͘!",
    "İstanbul ISTANBUL ıstanbul istanbul",
    "ΑΒΓ Σίσυφος ΣΊΣΥΦΟΣ ὈΔΥΣΣΕΎΣ άέή",
    "Привет, мир! ЁЛКА ёлка й и\u0306",
    "სა ᲡᲐ საქართველო",
    "Հայաստան",
    "שלום עולם שָׁלוֹם",
    "مرحبا بالعالم العَرَبِيَّة ١٢٣ ۴۵۶",
    "right \u202eto\u202c left \u2067isolate\u2069 \u200f mark",
    "नमस्ते दुनिया १२३ क्ष",
    "สวัสดีชาวโลก ๑๒๓",
    "你好，世界！",
    "一只红色的苹果，高清，水彩画",
    "こんにちは世界 カタカナ ｶﾀｶﾅ ガ ガ か\u3099",
    "안녕하세요 세계 \u1112\u1161\u11ab\u1100\u1173\u11af",
    "全角ＡＢＣ１２３！？",
    "𠜎𠜱𠝹𠱓 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚 𐐀𐐨 𓀀",
    "Tiếng Việt: một quả táo đỏ",
    "😀 😃 😄",
    "👩‍👩‍👧‍👦 👨🏽‍🚀 🏳️‍🌈 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🇫🇷🇩🇪 1️⃣ #️⃣",
    "❤️ ❤ ☺︎ ☺️ ©️ ™",
    "👍🏻👍🏼👍🏽👍🏾👍🏿",
    "smile😀smile 2😀3 '😀's",
    "∑∫√∞≠≤≥ ±×÷ → ⇒ ∀∃∈",
    "€ £ ¥ ₹ ₿ ¢ ¤",
    "“quotes” ‘single’ «guillemets» „low“ – en — em … ellipsis",
    "¿Qué? ¡Sí! º ª",
    "\ufffd replacement \ufffe\uffff noncharacters \U0010ffff",
    "private \ue000\uf8ff use",
    "combining alone \u0301 \u20dd enclosing",
    "variation \ufe0e\ufe0f selectors",
    "tag \U000e0041\U000e0042 characters",
    "𝒜𝓁𝓁 𝕥𝕙𝕖 𝓯𝓪𝓷𝓬𝔂 ᵗᵉˣᵗ ₜₑₓₜ ⓣⓔⓧⓣ",
)


def long_texts() -> list[str]:
    """Beyond 77 tokens, in every way: many words, one word, no letters, cut in the middle of a character."""
    return [
        "word " * 100,
        "a" * 1000,
        "ab" * 2000,
        "!" * 500,
        "1" * 200,
        "😀" * 60,
        "红" * 120,
        "e\u0301" * 300,
        "antidisestablishmentarianism" * 40,
        "x " * 74 + "last",
        "x " * 75 + "dropped",
        "x " * 74 + "😀",
        " " * 5000 + "far",
        "\u200d" * 400,
        "<|endoftext|>" * 100,
    ]


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Mixes of characters of every script, of mixed lengths; unassigned code points and surrogates left out."""
    generator = random.Random(seed)
    assigned = [code for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")]
    plane = [code for code in assigned if code < 0x3000]
    texts = []
    for index in range(count):
        pool = (range(0x20, 0x7F), range(0x250), plane, assigned)[index % 4]
        texts.append("".join(chr(generator.choice(pool)) for _ in range(generator.randint(1, 24))))
    return texts


def texts() -> list[str]:
    """All of them, without repetitions."""
    prompts = [subject + style for subject in SUBJECTS for style in STYLES]
    shouted = [prompt.upper() for prompt in prompts[::4]]
    return list(dict.fromkeys([*prompts, *shouted, *HANDWRITTEN, *long_texts(), *random_texts(480)]))
