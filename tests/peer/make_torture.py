"""Writes a Unicode torture file: JSON Lines of strings that a tokenizer may get wrong.

  make_torture.py OUTPUT.jsonl [--documents N] [--seed N]
Combining marks in every order, Indic and south-east Asian syllables, CJK, Hangul jamo, right-to-left text with controls of
direction, emoji with modifiers, flags and joiners, control characters, odd white space, private use, case pairs that
fold into ASCII, runs of one character, and special tokens whole and broken. Only code points that Unicode 9 had
assigned, for the tables of the libraries that are compared are of different ages.
"""
import argparse
import json
import random
import unicodedata

# Script blocks with letters, digits, vowel signs and viramas.
INDIC = [(0x900, 0x97f), (0x980, 0x9ff), (0xa00, 0xa7f), (0xa80, 0xaff), (0xb00, 0xb7f), (0xb80, 0xbff), (0xc00, 0xc7f),
         (0xc80, 0xcff), (0xd00, 0xd7f), (0xd80, 0xdff), (0xe00, 0xe7f), (0xe80, 0xeff), (0xf00, 0xfff), (0x1000, 0x109f), (0x1780, 0x17ff)]
MARKS = [(0x300, 0x36f), (0x483, 0x489), (0x591, 0x5c7), (0x610, 0x61a), (0x64b, 0x65f), (0x1dc0, 0x1df5), (0x20d0, 0x20f0), (0xfe20, 0xfe2f)]
CJK = [(0x3000, 0x303f), (0x3041, 0x30ff), (0x3400, 0x34ff), (0x4e00, 0x9fd5), (0xf900, 0xfaff), (0xff00, 0xffef), (0x20000, 0x200ff),
       (0x2f800, 0x2fa1d), (0xac00, 0xd7a3), (0x1100, 0x11ff), (0x3131, 0x318e)]
LETTERS = [(0x41, 0x7a), (0xa0, 0x24f), (0x250, 0x2ff), (0x370, 0x3ff), (0x400, 0x52f), (0x531, 0x58f), (0x10a0, 0x10ff), (0x1200, 0x137f),
           (0x13a0, 0x13f5), (0x1e00, 0x1fff), (0x2c00, 0x2dff), (0xa640, 0xa69d), (0x10400, 0x1044f), (0x1d400, 0x1d7ff), (0x118a0, 0x118f2)]
RIGHT_TO_LEFT = [(0x590, 0x5ff), (0x600, 0x6ff), (0x700, 0x74f), (0x780, 0x7bf), (0xfb1d, 0xfdff), (0xfe70, 0xfeff)]
SIGNS = [(0x20, 0x40), (0x5b, 0x60), (0x7b, 0x7e), (0x2010, 0x206f), (0x20a0, 0x20be), (0x2100, 0x23ff), (0x2460, 0x24ff), (0x2500, 0x27bf),
         (0x2900, 0x2bff), (0x1f000, 0x1f0ff), (0x1f100, 0x1f16b)]
DIGITS = [(0x30, 0x39), (0x660, 0x669), (0x966, 0x96f), (0xff10, 0xff19), (0xb2, 0xb3), (0xbc, 0xbe), (0x2150, 0x2189), (0x1d7ce, 0x1d7ff), (0x3021, 0x3029)]
CONTROLS = [(0x1, 0x1f), (0x7f, 0x9f), (0x200b, 0x200f), (0x202a, 0x202e), (0x2060, 0x2064), (0xfff9, 0xfffd), (0xe0001, 0xe007f), (0xfe00, 0xfe0f),
            (0xe000, 0xe01f), (0xf0000, 0xf000f), (0x10fff0, 0x10ffff), (0xad, 0xad), (0xfeff, 0xfeff), (0x180b, 0x180e)]
EMOJI = [(0x1f300, 0x1f5ff), (0x1f600, 0x1f64f), (0x1f680, 0x1f6d2), (0x1f910, 0x1f91e), (0x1f920, 0x1f927), (0x2600, 0x26ff), (0x2702, 0x27b0)]
BLANKS = [" ", "  ", "    ", "\n", "\n\n", "\r\n", "\r", "\t", "\x0b", "\x0c", "\x85", "\u00a0", "\u1680", "\u2000", "\u2003", "\u2009", "\u200a",
          "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", " \n", "\n ", "\t \n\t", "\u180e", "\u200b", "\x1c", "\x1f"]
FIXED = ["'s", "'T", "'re", "'VE", "'m", "'ll", "'D", "'\u017f", "\u2019s", "''s", "x'", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_start|",
         "|im_end|>", "<|vision_start|>", "<think>", "</think>", "<tool_call>", "\u212a", "\u0130", "\u00df", "\ufb03", "\u01c5", "\u1e9e", "\u2126",
         "\u1112\u1161\u11ab", "\ud55c", "e\u0301", "\u00e9", "q\u0307\u0323", "q\u0323\u0307", "\u0344", "\u0958", "\u09cb", "\u09c7\u09be", "\u0b94",
         "\u1e9b\u0323", "\u0fb2\u0f71\u0f80", "\U0001d15e", "\u2adc", "\u0915\u094d\u0937", "\u0e01\u0e33", "\u17d2\u1780"]


# What the ranges above hold that came after Unicode 9.
LATER = [(0x560, 0x560), (0x588, 0x588), (0x5ef, 0x5ef), (0x61d, 0x61d), (0x7fd, 0x7ff), (0x9fc, 0x9fe), (0xa76, 0xa76), (0xafa, 0xaff), (0xb55, 0xb55),
         (0xc04, 0xc04), (0xc3c, 0xc3c), (0xc5d, 0xc5d), (0xc77, 0xc77), (0xc84, 0xc84), (0xcdd, 0xcdd), (0xcf3, 0xcf3), (0xd00, 0xd00),
         (0xd04, 0xd04), (0xd3b, 0xd3c), (0xd81, 0xd81), (0xe86, 0xe86), (0xe89, 0xe89), (0xe8c, 0xe8c), (0xe8e, 0xe93), (0xe98, 0xe98),
         (0xea0, 0xea0), (0xea8, 0xea9), (0xeac, 0xeac), (0xeba, 0xeba), (0xece, 0xece), (0x20bf, 0x20c0), (0x23ff, 0x23ff), (0x2bba, 0x2bbc),
         (0x2bd2, 0x2beb), (0x2bf0, 0x2bff), (0x2c2f, 0x2c2f), (0x2c5f, 0x2c5f), (0x2e45, 0x2e7f), (0x1f10d, 0x1f10f), (0x1f12f, 0x1f12f)]


def assigned(point):
    return unicodedata.category(chr(point)) not in ("Cn", "Cs") and not any(low <= point <= high for low, high in LATER)


def pool(ranges):
    return [chr(p) for low, high in ranges for p in range(low, high + 1) if assigned(p)]


def emoji(rng, base):
    text = rng.choice(base)
    if rng.random() < 0.3:
        text += chr(rng.randint(0x1f3fb, 0x1f3ff))
    if rng.random() < 0.3:
        text += "\ufe0f"
    while rng.random() < 0.4:
        text += "\u200d" + rng.choice(base)
    if rng.random() < 0.2:
        text += chr(rng.randint(0x1f1e6, 0x1f1ff)) + chr(rng.randint(0x1f1e6, 0x1f1ff))
    return text


def run(rng, pools):
    unit = rng.choice(rng.choice(list(pools.values())))
    return unit * rng.choice([2, 3, 7, 40, 300])


def piece(rng, pools, plain):
    kind = rng.randrange(14)
    if kind < 4:
        return "".join(rng.choice(plain) for _ in range(rng.randint(1, 9)))
    if kind == 4:
        return "".join(rng.choice(pools["letters"]) + "".join(rng.choice(pools["marks"]) for _ in range(rng.randrange(5))) for _ in range(4))
    if kind == 5:
        low, high = rng.choice(INDIC)
        block = [chr(p) for p in range(low, high + 1) if assigned(p)]
        return "".join(rng.choice(block) for _ in range(rng.randint(1, 12)))
    if kind == 6:
        return "".join(emoji(rng, pools["emoji"]) for _ in range(rng.randint(1, 4)))
    if kind == 7:
        return rng.choice(FIXED)
    if kind == 8:
        return run(rng, pools) if rng.random() < 0.05 else rng.choice(pools["controls"])
    name = rng.choice(list(pools))
    return "".join(rng.choice(pools[name]) for _ in range(rng.randint(1, 8)))


def documents(count, seed):
    rng = random.Random(seed)
    pools = {"letters": pool(LETTERS), "marks": pool(MARKS), "indic": pool(INDIC), "cjk": pool(CJK), "rtl": pool(RIGHT_TO_LEFT),
             "signs": pool(SIGNS), "digits": pool(DIGITS), "controls": pool(CONTROLS), "emoji": pool(EMOJI)}
    plain = "etaoinshrdlucmfwypvbgkjqxzETAOIN0123456789.,;:!?'\"-_()[]{}<>/\\|@#$%^&*+=~`"
    for _ in range(count):
        parts = []
        for _ in range(rng.randint(1, 60)):
            parts.append(piece(rng, pools, plain))
            if rng.random() < 0.5:
                parts.append(rng.choice(BLANKS))
        yield "".join(parts)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("output")
    parser.add_argument("--documents", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    size = 0
    with open(args.output, "w", encoding="utf-8") as f:
        for i, text in enumerate(documents(args.documents, args.seed)):
            size += len(text.encode())
            f.write(json.dumps(text, ensure_ascii=i % 10 == 0) + "\n")
    print(f"{args.output}: {args.documents} documents, {size / 1e6:.1f} MB of text")


if __name__ == "__main__":
    main()
