"""Makes tests/golden/tuning/peer.json: the losses of the first iterations of auto-round itself on block 0.

    python3 tests/golden/make_peer.py MODEL_DIR TEXT.jsonl tests/golden/tuning/peer.json

Needs auto-round (0.16.1) on a processor without bf16, where it computes in fp32. 200 iterations are asked for, as the
learning rate depends on their number, and the run is given up after three. The test that reads the file needs the same
model and the same calibration rows, and skips without them.
"""
import json
import sys

import torch
from auto_round import AutoRound

LOSSES, SETTINGS = [], dict(iters=200, nsamples=64, seqlen=512, batch_size=8, seed=42)


class Enough(BaseException):
    pass


def main():
    model, text, out = sys.argv[1:]
    forward = torch.nn.MSELoss.forward

    def record(self, *args):
        loss = forward(self, *args)
        LOSSES.append(loss.item())
        if len(LOSSES) == 3:
            raise Enough
        return loss

    torch.nn.MSELoss.forward = record
    try:
        AutoRound(model, scheme="W4A16", dataset=text, enable_torch_compile=False, **SETTINGS).quantize()
    except Enough:
        pass
    with open(out, "w") as f:
        f.write(json.dumps(dict(**SETTINGS, losses=LOSSES), indent=1) + "\n")


if __name__ == "__main__":
    main()
