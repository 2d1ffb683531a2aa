"""Makes tests/golden/calibration.json: the rows that auto-round 0.16.1 samples from mixes of data sets.

  make_calibration.py REPOSITORY
Needs auto-round 0.16.1. The data sets are the lines of tests/data/nano-samples.jsonl: {a} the first 12, {b} the next 60,
{c} the last 24. Packing ("concat") of local files fails in 0.16.1 with an AttributeError, for its rows are lists there and
not tensors: here its loop runs over lists. Mixes where 0.16.1 caps one data set by the rows of another (it sorts the sets,
but not their numbers of rows) are left out: Roundhouse takes the rows that are there.
"""
import json
import os
import pathlib
import sys
import tempfile

os.environ["AR_DISABLE_DATASET_SUBPROCESS"] = "1"
from auto_round import calib_dataset  # noqa: E402
from datasets import Dataset  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

CASES = [("{a},{b}", 16, 64, 42), ("{b}:num=4,{a}", 16, 64, 42), ("{a},{b},{c}", 45, 64, 42), ("{c}:num=7,{b}:num=2,{a}", 12, 48, 7),
         ("{a}:concat", 8, 64, 42), ("{b}:concat", 9, 700, 7), ("{b}:num=3,{a}:concat", 9, 64, 42)]


def packed(tokenizer, seqlen, path, seed):
    """concat_dataset_element of calib_dataset.py, for a tokenizer without BOS and EOS."""
    rows, buffer = [], []
    for document in calib_dataset.get_local_dataset(tokenizer, seqlen, path, seed=seed)["input_ids"]:
        if len(buffer) + len(document) > seqlen:
            keep = seqlen - len(buffer)
            rows.append(buffer + document[:keep])
            buffer = document[keep:]
        else:
            buffer = buffer + document
        if len(buffer) == seqlen:
            rows.append(buffer)
            buffer = []
    return Dataset.from_list([{"input_ids": row, "attention_mask": [1] * seqlen} for row in rows])


def main():
    root = pathlib.Path(sys.argv[1])
    tokenizer = AutoTokenizer.from_pretrained(root / "tests" / "data" / "nano")
    lines = (root / "tests" / "data" / "nano-samples.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    local = calib_dataset.CALIB_DATASETS["local"]
    out = []
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name, part in (("a", lines[:12]), ("b", lines[12:72]), ("c", lines[72:])):
            paths[name] = f"{folder}/{name}.jsonl"
            pathlib.Path(paths[name]).write_text("".join(part), encoding="utf-8")
        for spec, nsamples, seqlen, seed in CASES:
            pack = {paths[p[1]] for p in spec.split(",") if ":concat" in p}

            def load(tokenizer, seqlen, dataset_name, seed, **more):
                if dataset_name in pack:
                    return packed(tokenizer, seqlen, dataset_name, seed)
                return local(tokenizer, seqlen, dataset_name=dataset_name, seed=seed, **more)

            calib_dataset.CALIB_DATASETS["local"] = load
            text = spec.replace(":concat", "").format(**paths)
            found = calib_dataset._get_dataset_impl(tokenizer, seqlen, text, seed, nsamples)
            rows = [row["input_ids"][:seqlen].tolist() for row in found]
            assert len(rows) == nsamples, (spec, len(rows))
            out.append({"dataset": spec, "nsamples": nsamples, "seqlen": seqlen, "seed": seed, "rows": rows})
    text = ",\n".join(json.dumps(case, separators=(",", ":")) for case in out)
    (root / "tests" / "golden" / "calibration.json").write_text(f"[\n{text}\n]\n")


main()
