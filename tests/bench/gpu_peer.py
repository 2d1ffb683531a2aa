#!/usr/bin/env python3
"""Times auto-round on one GPU, on a checkpoint with true layer sizes; beside gpu_block in one run it gives the ratio.

  gpu_peer.py MODEL_DIR [--iters 60] [--nsamples 256] [--seqlen 4096] [--batch-size 8]

Calibration rows are random tokens, so that the library "datasets" may be missing. torch.compile is off: it had not finished
compiling the first block of 256 experts after minutes. flash-linear-attention refuses some Triton versions on Hopper, where
its gradients are wrong; it is let through, because only time is measured here."""
import argparse
import sys
import time
import traceback
import types


def stub_datasets():
    try:
        import datasets  # noqa: F401
    except ImportError:
        module = types.ModuleType("datasets")
        for name in ("Dataset", "Features", "IterableDataset", "Sequence", "Value"):
            setattr(module, name, type(name, (), {}))
        for name in ("concatenate_datasets", "load_dataset", "load_from_disk"):
            setattr(module, name, None)
        module.__version__ = "0"
        module.__spec__ = None
        sys.modules["datasets"] = module


def delta_rule():
    """Whose gated delta rule transformers will call: it takes flash-linear-attention when that can be imported, and says
    nothing when it cannot."""
    try:
        import fla.ops.common.chunk_o as chunk_o
        import fla.ops.gated_delta_rule  # noqa: F401
        chunk_o.TRITON_ABOVE_3_7_1 = True
    except ImportError:
        traceback.print_exc(file=sys.stdout)
    from transformers.models.qwen3_5_moe import modeling_qwen3_5_moe as modeling
    found = [cell.cell_contents for cell in modeling.torch_chunk_gated_delta_rule.__closure__ or ()]
    return next((f.__module__ for f in found if getattr(f, "__module__", "").startswith("fla.")), "the slow path of transformers")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--iters", type=int, default=60)
    parser.add_argument("--nsamples", type=int, default=256)
    parser.add_argument("--seqlen", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()
    import torch
    import transformers  # noqa: F401  before the stub: it looks "datasets" up by itself
    stub_datasets()
    print("gated delta rule:", delta_rule())
    import auto_round
    print("auto-round", auto_round.__version__, "torch", torch.__version__, flush=True)
    random = torch.Generator().manual_seed(1)
    rows = [{"input_ids": torch.randint(5, 2000, (args.batch_size, args.seqlen), generator=random)}
            for _ in range(args.nsamples // args.batch_size)]
    began = time.time()
    auto_round.AutoRound(args.model, scheme="W4A16", group_size=128, iters=args.iters, nsamples=args.nsamples,
                         seqlen=args.seqlen, batch_size=args.batch_size, dataset=rows, seed=42,
                         enable_torch_compile=False).quantize()
    peak = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else 0.0
    print(f"quantize {time.time() - began:.2f} s, peak {peak:.1f} GB", flush=True)


if __name__ == "__main__":
    main()
