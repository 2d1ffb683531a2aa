"""Compares the ids of `roundhouse tokenize` with those of the `tokenizers` library, document by document.

  compare_tokenizer.py ROUNDHOUSE TOKENIZER_JSON FILE...
A .jsonl file holds a document a line (a string, or an object with "text"); any other file is cut into documents of
up to 64 KiB at line ends, NUL characters left out. Prints a line for each file; exit code 1 when a token differs.
"""
import json
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer


def documents(path):
    if path.endswith(".jsonl"):
        with open(path, encoding="utf-8") as f:
            rows = [json.loads(line) for line in f if line.strip()]
        return [row if isinstance(row, str) else row["text"] for row in rows]
    with open(path, encoding="utf-8", newline="", errors="ignore") as f:
        text = f.read().replace("\0", "")
    found, part, size = [], [], 0
    for line in text.splitlines(keepends=True):
        part.append(line)
        size += len(line)
        if size > 65536:
            found.append("".join(part))
            part, size = [], 0
    return found + (["".join(part)] if part else [])


def own_ids(program, tokenizer, texts):
    with tempfile.TemporaryFile() as f:
        for text in texts:
            f.write(json.dumps(text).encode() + b"\n")
        f.seek(0)
        done = subprocess.run([program, "tokenize", tokenizer, "--jsonl"], stdin=f, stdout=subprocess.PIPE, check=True)
    return [[int(i) for i in line.split()] for line in done.stdout.decode().split("\n")[:-1]]


def first_difference(text, own, peer, library):
    at = next((i for i, (a, b) in enumerate(zip(own, peer)) if a != b), min(len(own), len(peer)))
    before = library.decode(peer[:at], skip_special_tokens=False)
    return f"token {at}: {own[at:at + 6]}, not {peer[at:at + 6]}, after {before[-20:]!r} in {text[max(0, len(before) - 10):len(before) + 20]!r}"


def main():
    program, tokenizer, *paths = sys.argv[1:]
    library = Tokenizer.from_file(tokenizer)
    totals = [0, 0, 0, 0]
    for path in paths:
        texts = documents(path)
        own = own_ids(program, tokenizer, texts)
        assert len(own) == len(texts), f"{len(own)} lines of ids for {len(texts)} documents"
        size = tokens = different = wrong = 0
        for text, mine in zip(texts, own):
            peer = library.encode(text).ids
            size += len(text.encode())
            tokens += len(peer)
            if mine != peer:
                different += 1
                wrong += sum(a != b for a, b in zip(mine, peer)) + abs(len(mine) - len(peer))
                if different <= 10:
                    print(f"{path}: document {texts.index(text)}: {first_difference(text, mine, peer, library)}")
        print(f"{path}: {len(texts)} documents, {size / 1e6:.2f} MB, {tokens} tokens, {different} documents and {wrong} tokens differ")
        totals = [a + b for a, b in zip(totals, (len(texts), size, tokens, wrong))]
    print(f"{tokenizer}: {totals[0]} documents, {totals[1] / 1e6:.2f} MB, {totals[2]} tokens, {totals[3]} differ")
    sys.exit(totals[3] > 0)


main()
