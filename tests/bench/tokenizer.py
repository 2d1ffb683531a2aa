"""Speed of Roundhouse's tokenizer against that of the `tokenizers` library, both on one thread.

  tokenizer.py BENCH_TOKENIZER TOKENIZER_JSON FILE.jsonl [ROUNDS]
The two take turns over the same documents in one run; figures are processor seconds, medians of ROUNDS (default 5).
The library encodes all documents in one call that leaves offsets out, its fastest way. Loading is not counted.
"""
import json
import os
import statistics
import subprocess
import sys
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
from tokenizers import Tokenizer  # noqa: E402


def main():
    program, tokenizer, path = sys.argv[1:4]
    rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 5
    library = Tokenizer.from_file(tokenizer)
    with open(path, encoding="utf-8") as f:
        rows = [json.loads(line) for line in f if line.strip()]
    texts = [(row if isinstance(row, str) else row["text"]).rstrip() for row in rows]
    size = sum(len(text.encode()) for text in texts)
    own, peer = [], []
    library.encode_batch_fast(texts)
    for _ in range(rounds):
        begin = time.process_time()
        encoded = library.encode_batch_fast(texts)
        peer.append(time.process_time() - begin)
        tokens = sum(len(e.ids) for e in encoded)
        del encoded
        out = subprocess.run([program, tokenizer, path, "2"], stdout=subprocess.PIPE, check=True, text=True).stdout
        last = out.splitlines()[-1].split()
        assert (int(last[0]), int(last[2])) == (size, tokens), f"{out}: the library gives {size} bytes and {tokens} tokens"
        own.append(float(last[4]))
    ratios = [p / o for p, o in zip(peer, own)]
    print(f"{path}: {len(texts)} documents, {size / 1e6:.2f} MB, {tokens} tokens")
    print(f"tokenizers  {size / 1e6 / statistics.median(peer):7.2f} MB/s")
    print(f"roundhouse  {size / 1e6 / statistics.median(own):7.2f} MB/s")
    print(f"ratio       {statistics.median(ratios):7.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")


main()
