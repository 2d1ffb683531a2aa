"""Makes the seeds under tests/fuzz/corpus that are not written by hand: messages, recipes, tokenizers, configs.

  make_corpus.py REPOSITORY
Fuzzing starts from them, and the test suite replays them. Inputs that once were findings lie beside them.
"""
import json
import pathlib
import struct
import sys


def varint(n):
    out = b""
    n &= (1 << 64) - 1
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def message(*fields):
    """Protobuf: an int is a varint, a float a double, text and bytes are length-delimited."""
    out = b""
    for number, value in fields:
        if isinstance(value, float):
            out += varint(number << 3 | 1) + struct.pack("<d", value)
        elif isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


LEASE = message((1, 7), (2, 3), (3, 1), (4, 99), (5, "block 3"), (6, 12.5), (7, 200.0), (8, "iterations"))
MESSAGES = {
    "hello": (1, message((1, 1), (2, 1), (3, "gpu0"), (4, 5), (5, "quantize"), (6, 1), (7, 4242), (8, "box"), (9, "0.1.0"), (10, LEASE), (10, LEASE), (11, "f"))),
    "welcome": (2, message((1, 1), (2, 9), (3, 1000), (4, 30000), (5, LEASE), (6, "f"), (7, 2))),
    "refuse": (3, message((1, 2), (2, "superseded"), (3, 500), (4, 1), (5, 1))),
    "ready": (4, message((1, 9), (2, 1))),
    "assign": (5, message((1, 9), (2, 7), (3, 3), (4, 1), (5, "a1"), (6, "tune"), (7, 0), (8, 3), (9, 0), (10, "jobs/a1"), (11, "staging/tune-00000.3"),
                          (12, "{}"), (13, "file:/m"), (14, "dir:/o"), (15, 30000))),
    "assign_outside": (5, message((2, 7), (6, "tune"), (10, "../x"), (11, "/staging"))),
    "accept": (6, message((1, 7), (2, 3))),
    "reject": (7, message((1, 7), (2, 3), (3, "busy"))),
    "beat": (8, message((1, 9), (2, LEASE), (3, 1 << 30), (4, 1))),
    "beat_ack": (9, message((1, 9), (2, 2), (3, LEASE))),
    "checkpoint": (10, message((1, 7), (2, 3), (3, 0), (4, '{"seconds": 1.5}'))),
    "result": (11, message((1, 7), (2, 3), (3, 1), (7, "{}"), (8, 1.25), (9, 1 << 28))),
    "result_bad": (11, message((1, 7), (2, 3), (4, 2), (5, "FORMAT"), (6, "no text"))),
    "ack": (12, message((1, 7), (2, 3), (3, 1), (4, 2), (5, 1))),
    "negative": (6, message((1, -1), (2, -1 << 62))),
    "unknown_field": (6, message((1, 7), (900, "later"), (2, 3))),
    "not_utf8": (7, message((3, b"\xff\xfe"))),
    "unknown_kind": (77, b""),
}


def wire(corpus):
    for name, (kind, body) in MESSAGES.items():
        (corpus / name).write_bytes(bytes([0, kind]) + body)
    (corpus / "whole_header").write_bytes(b"RH\x01\x06\0\0\0\0" + MESSAGES["accept"][1])
    (corpus / "bad_flags").write_bytes(b"RH\x01\x06\x01\0\0\0")


RECIPES = {
    "set_int": "=quant.iters=200",
    "set_list": '=quant.ignore_layers=["mtp.fc", "layers.1"]',
    "set_text": "=calibration.dataset=/data/x.jsonl",
    "set_sets": "=calibration.dataset=/a.jsonl:share=0.75,/b.parquet:column=body:num=8,/c.txt:concat=false",
    "set_unknown": "=quant.itres=2",
    "set_number": "=quant.lr=5e-3",
    "unknown": '{"quant": {"bitz": 4}}',
    "dotted": '{"quant.bits": 4}',
    "types": '{"quant": {"bits": "4", "sym": 1, "iters": 1.5}, "calibration": []}',
    "huge": '{"quant": {"iters": 1e300, "lr": -0.0}, "output": {"max_shard_bytes": 9007199254740993}}',
}


def recipes(root, corpus):
    for path in sorted((root / "configs" / "recipes").glob("*.json")):
        lines = [line for line in path.read_text().splitlines() if '"extends"' not in line]
        (corpus / path.stem).write_text("\n".join(lines) + "\n")
    for name, text in RECIPES.items():
        (corpus / name).write_text(text)


INDEX = {
    "good": {"metadata": {"total_size": 2}, "weight_map": {"t": "a.safetensors"}},
    "other_file": {"weight_map": {"t": "b.safetensors"}},
    "other_tensor": {"weight_map": {"t": "a.safetensors", "u": "a.safetensors"}},
    "outside": {"weight_map": {"t": "../a.safetensors"}},
    "absolute": {"weight_map": {"t": "/a.safetensors"}},
    "empty": {"weight_map": {}},
    "number": {"weight_map": {"t": 1}},
    "list": [1],
}

ROWS = ['"text"', '{"any": "text \\u00e9 \\ud83d\\ude00"}', '{"id": 1, "text": "a\\n\\u3000\\u2028 "}', '{"messages": [{"role": "user", "content": "x"}]}',
        '{"text": "\\ud800"}', '{"text": 7, "x": 8}', "[]", '{"text": "\u2003"}', '{"text": "a", "text": "b"}', "plain", '"\\u0000"']

FILE = {"type": "file", "path": "config.json", "size": 5, "oid": "0123456789abcdef" * 2 + "01234567"}
LFS = {"type": "file", "path": "a.safetensors", "size": 9, "oid": "f" * 40, "lfs": {"oid": "9" * 64, "size": 9, "pointerSize": 134}}
HUB = {
    "listing": [FILE, LFS, {"type": "directory", "path": "figures", "size": 0, "oid": "0" * 40}],
    "hidden": [FILE | {"path": ".gitattributes"}, FILE | {"path": "figures/a.png"}],
    "twice": [FILE, FILE],
    "outside": [FILE | {"path": "../x"}],
    "absolute": [FILE | {"path": "/etc/passwd"}],
    "drive": [FILE | {"path": "c:x"}],
    "backslash": [FILE | {"path": "a\\b"}],
    "control": [FILE | {"path": "a\nb"}],
    "negative": [FILE | {"size": -1}],
    "unequal": [LFS | {"size": 8}],
    "no_digest": [FILE | {"oid": "../../x"}],
    "upper": [FILE | {"oid": "F" * 40}],
    "null": [FILE | {"lfs": None, "xetHash": "a"}],
    "no_list": {"error": "x"},
    "commit": {"id": "acme/nano", "sha": "0123456789" * 4, "siblings": [{"rfilename": "config.json"}]},
    "no_commit": {"sha": "main"},
}
HUB_TEXTS = {
    "link": '<https://huggingface.co/api/models/a/b/tree/c?cursor=x>; rel="next", <https://x>; rel="prev"',
    "link_cut": "<https://x",
    "name": "@acme/nano-1.5_b@refs/pr/1",
    "name_dots": "@acme/..",
    "location": "https://cdn.invalid:8443/x/y?Signature=z",
    "location_odd": "h:[]//%zz",
}


def main():
    root = pathlib.Path(sys.argv[1])
    corpus = {}
    for name in ("wire", "recipe", "tokenizer", "index", "config", "jsonl", "hub"):
        corpus[name] = root / "tests" / "fuzz" / "corpus" / name
        corpus[name].mkdir(parents=True, exist_ok=True)
    wire(corpus["wire"])
    recipes(root, corpus["recipe"])
    for name, document in INDEX.items():
        (corpus["index"] / name).write_text(json.dumps(document))
    for name, document in HUB.items():
        (corpus["hub"] / name).write_text(json.dumps(document))
    for name, text in HUB_TEXTS.items():
        (corpus["hub"] / name).write_text(text)
    for i, row in enumerate(ROWS):
        (corpus["jsonl"] / f"row_{i:02}").write_text(row)
    for path in sorted((root / "tests" / "golden" / "tokenizer").glob("*.tokenizer.json")):
        (corpus["tokenizer"] / path.name.split(".")[0]).write_bytes(path.read_bytes())
    config = json.loads((root / "tests" / "data" / "nano" / "config.json").read_text())
    (corpus["config"] / "nano").write_text(json.dumps(config, separators=(",", ":")))
    text = {k: v for k, v in config.items() if k != "vision_config"}
    (corpus["config"] / "no_vision").write_text(json.dumps(text, separators=(",", ":")))
    text["text_config"] = {**text["text_config"], "num_hidden_layers": 1 << 40, "head_dim": -1}
    (corpus["config"] / "large").write_text(json.dumps(text, separators=(",", ":")))


main()
