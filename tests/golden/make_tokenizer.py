"""Makes tests/golden/tokenizer: small tokenizers, and the ids that the `tokenizers` library gives.

  make_tokenizer.py NANO_TOKENIZER_JSON OUTPUT_DIR
Needs the package tokenizers (0.23). Every <name>.json holds {"tokenizer", "cases", "runs"}; a tokenizer is a file
beside it, or "nano". A case has text and ids; a run is a text repeated, with the count and SHA-256 of its ids as
little-endian int32.
"""
import hashlib
import json
import pathlib
import random
import struct
import sys

from tokenizers import AddedToken, Tokenizer

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "peer"))
import make_torture  # noqa: E402

QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

PLAIN = [
    "", " ", "  ", "a", "\n", "\r\n", "hello world", "Hello, World!", "  two  spaces  ", "tabs\t\tand\nlines\n\n\n",
    "trailing space ", "\u00a0no-break\u00a0space", "line\u2028separator\u2029end", "mongolian\u180evowel separator",
    "\u3000ideographic\u3000space", "it's we'll THEY'RE I'M don'T 'tis 's", "\u017fharp 'ſ x'ſ",
    "1 12 123 1234 3.14159 1e-9 0xFFFF ٣٤٥ Ⅷ ½ ²", "x=1;y+=2;\nif(x<y){return x*y;}\n",
    "def f(a, b=None):\n    \"\"\"doc\"\"\"\n    return a if b is None else b\n",
    "#include <stdio.h>\r\nint main(void)\r\n{\r\n\treturn 0;\r\n}\r\n", "https://example.org/a/b?c=d&e=%20#f",
    "naïve café über Straße", "nai\u0308ve cafe\u0301 u\u0308ber", "A\u030angstro\u0308m \u212b \u2126 \u00c5",
    "Ελληνικά κείμενο", "Привет, мир! ёлка", "שלום עולם", "السلام عليكم", "नमस्ते दुनिया कृपया", "ภาษาไทยไม่มีช่องว่าง",
    "こんにちは世界。カタカナ、漢字。", "한국어 문장입니다. \u1112\u1161\u11ab", "汉字没有空格,标点符号!", "Tiếng Việt có dấu",
    "😀😁 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪", "zero\u200bwidth\u200cnon\u200djoiner\ufeff", "combining: a\u0327\u0301\u0323 q\u0307\u0323",
    "\u0958 \u0344 \u1e9b\u0323 \ufb01 \uf900 \u2f800", "math ∑∫√≠≤ 𝔘𝔫𝔦 𝟘𝟙𝟚", "\x00\x01\x02\x1f\x7f\x80\x85\x9f",
    "\U0010ffff \ufffd \ufffe \ue000", "___---***!!!???...,,,", "....\n\n....\r\r....", " \n \n  \n\t\n x", "a\u0300" * 20,
    "CamelCaseIdentifierWithManyParts snake_case_identifier kebab-case-identifier",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "The quick brown fox jumps over the lazy dog. " * 3,
]
SPECIAL = [
    "<|endoftext|>", "<|im_start|>user\nHi<|im_end|>\n", "a<|endoftext|>b", " <|im_end|> ", "<|endoftext|><|endoftext|>",
    "<|endoftext", "<|endoftext|", "<<|endoftext|>>", "e<|im_end|>\u0301", "<|im_start|><|im_end|>x\n\n<|im_start|>",
]
FLAGS = [
    "x <L> y", "x \t\n<L>y", "<L><L>", " <L> <L> ", "a <R>  b", "<R>\u3000\u2028b", "<R> <R> x", "a <LR> b", "  <LR>  <L>  <R>  ",
    "<W>", "a <W> b", "a<W> b", "a <W>b", "a<W>", "-<W>-", "_<W>_", "é<W>", "1<W>", "\u0301<W>", "\u24b6<W>", "\u200d<W>", "½<W>x",
    "caf\u00e9", "cafe\u0301", "xcaf\u00e9x", "e\u0301 cafe\u0301s", "wort worts swort wort", "Wort", "wor<L>t", "<LONG><LONGER>",
    "<LONGER", "<LONG", "<W><W>", "<W> <W>", "a<W><L>", "nospace\u00a0<L>\u00a0x", "\u180e<L>", "<R>\u180e", "<R>\x85\x0b\x0c\x1cx",
]


def random_texts(seed, count):
    """Letters, marks, digits and signs of blocks that no Unicode version since 6 has changed."""
    rng = random.Random(seed)
    ranges = [(0x20, 0x7e)] * 6 + [(0xa0, 0x17f), (0x300, 0x314), (0x3b1, 0x3c9), (0x410, 0x44f), (0x5d0, 0x5ea), (0x627, 0x63a),
              (0x64b, 0x652), (0x905, 0x939), (0x93e, 0x94d), (0xe01, 0xe2e), (0x1100, 0x1112), (0x1161, 0x1175), (0x11a8, 0x11c2),
              (0x2000, 0x200f), (0x2010, 0x2027), (0x3041, 0x3096), (0x4e00, 0x4eff), (0xac00, 0xacff), (0x1f600, 0x1f64f)]
    blank = [" ", " ", "  ", "\n", "\r\n", "\t", "\u3000"]
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(rng.randrange(1, 24)):
            low, high = rng.choice(ranges)
            parts.append("".join(chr(rng.randint(low, high)) for _ in range(rng.randrange(1, 5))))
            if rng.random() < 0.4:
                parts.append(rng.choice(blank))
        texts.append("".join(parts))
    return texts


RUNS = [("a", 100000), (" ", 100000), ("\n", 100000), ("ab", 50000), (" \n", 50000), ("é", 30000), ("e\u0301", 30000), ("!", 100000),
        ("1", 50000), ("the ", 20000), ("<|endoftext|>", 5000), ("\u3000", 30000), ("'s", 30000)]


def letters():
    own = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    rest = [b for b in range(256) if b not in own]
    return {b: chr(b) for b in own} | {b: chr(256 + i) for i, b in enumerate(rest)}


def small(words, pattern, string_merges, extra=(), nfc=True, ignore_merges=False):
    """A byte-level BPE whose merges spell the words from left to right."""
    table = letters()
    vocab = {table[b]: i for i, b in enumerate(sorted(table))}
    merges = []
    for word in words:
        spelled = [table[b] for b in word.encode()]
        left = spelled[0]
        for right in spelled[1:]:
            if left + right not in vocab:
                vocab[left + right] = len(vocab)
                merges.append(left + " " + right if string_merges else [left, right])
            left += right
    for word in extra:
        vocab.setdefault("".join(table[b] for b in word.encode()), len(vocab))
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": pattern is None}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
            "normalizer": {"type": "NFC"} if nfc else None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]} if pattern else level,
            "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": ignore_merges,
                      "vocab": vocab, "merges": merges}}


def add(document, *tokens):
    first = len(document["model"]["vocab"])
    for i, t in enumerate(tokens):
        document["added_tokens"].append({"id": first + i, "content": t.content, "single_word": t.single_word, "lstrip": t.lstrip,
                                         "rstrip": t.rstrip, "normalized": t.normalized, "special": t.special})
    return document


def golden(tokenizer, name, texts, runs):
    cases = [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=True).ids} for t in texts if "\x00" not in t]
    lines = []
    for unit, times in runs:
        ids = tokenizer.encode(unit * times).ids
        digest = hashlib.sha256(struct.pack(f"<{len(ids)}i", *ids)).hexdigest()
        lines.append({"text": unit, "times": times, "count": len(ids), "sha256": digest})
    text = ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in cases)
    more = ",\n".join(json.dumps(c, ensure_ascii=False, separators=(",", ":")) for c in lines)
    return f'{{"tokenizer":{json.dumps(name)},"cases":[\n{text}\n],"runs":[\n{more}\n]}}\n'


def main():
    nano, out = sys.argv[1:]
    words = [" the", "the", " and", "ing", " in", "er", "re", "on", "word", "ords", "café", " def", "  ", "    ", "12", "123", "über",
             "こん", "\n\n", "\r\n", "'s", "...", "aaaa", "aab", "abab"]
    flags = add(small(words, QWEN, True), AddedToken("<L>", lstrip=True, normalized=False), AddedToken("<R>", rstrip=True, normalized=False),
                AddedToken("<LR>", lstrip=True, rstrip=True, normalized=False), AddedToken("<W>", single_word=True, normalized=False),
                AddedToken("caf\u00e9", normalized=True), AddedToken("cafe\u0301s", normalized=True), AddedToken("wort", single_word=True, normalized=True),
                AddedToken("<LONG>", normalized=False, special=True), AddedToken("<LONG><LONGER>", normalized=False, special=True))
    wholes = ["whole", " whole", "unreachable", "漢字"]
    made = {"flags": flags,
            "whole_words": small(words, LLAMA, False, wholes, nfc=False, ignore_merges=True),
            "gpt2": small(words, None, True, nfc=False)}
    texts = PLAIN + random_texts(1, 60)
    with open(f"{out}/nano.json", "w", encoding="utf-8") as f:
        f.write(golden(Tokenizer.from_file(nano), "nano", texts + SPECIAL + random_texts(2, 200), RUNS))
    with open(f"{out}/torture.json", "w", encoding="utf-8") as f:
        f.write(golden(Tokenizer.from_file(nano), "nano", [], [(text, 1) for text in make_torture.documents(120, 3)]))
    for name, document in made.items():
        path = f"{out}/{name}.tokenizer.json"
        with open(path, "w", encoding="utf-8") as f:
            json.dump(document, f, ensure_ascii=False, separators=(",", ":"))
            f.write("\n")
        more = FLAGS if name == "flags" else ["whole wholes unwhole", "unreachable unreachables", "漢字漢字", "1234567", "x whole\nwhole"]
        with open(f"{out}/{name}.json", "w", encoding="utf-8") as f:
            f.write(golden(Tokenizer.from_file(path), f"{name}.tokenizer.json", texts + more, RUNS[:4]))


main()
