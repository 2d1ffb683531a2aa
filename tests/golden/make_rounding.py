"""Makes tests/golden/rounding.json: what auto-round writes for the linears of nano's MTP block, which it rounds to nearest.

    python3 tests/golden/make_rounding.py OUTPUT_DIR tests/golden/rounding.json

OUTPUT_DIR is what auto-round (0.16.1, W4A16, any number of iterations) made of tests/data/nano. Under the name of each
qweight, qzeros and scales stands the SHA-256 of its little-endian words.
"""
import glob
import hashlib
import json
import sys

from safetensors import safe_open

PARTS = (".qweight", ".qzeros", ".scales")


def main():
    directory, out = sys.argv[1:]
    digests = {}
    for path in sorted(glob.glob(f"{directory}/*.safetensors")):
        with safe_open(path, "np") as f:
            for name in f.keys():
                if name.startswith("mtp.") and name.endswith(PARTS):
                    words = f.get_tensor(name)
                    words = words.astype(words.dtype.newbyteorder("<"))
                    digests[name] = hashlib.sha256(words.tobytes()).hexdigest()
    with open(out, "w") as f:
        f.write(json.dumps(digests, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
