#!/usr/bin/env python3
"""Roundhouse beside auto-round: the same model, text, iterations and cores, one after the other in one run.

  peer.py MODEL_DIR TEXT.jsonl [--iters 200] [--nsamples 64] [--seqlen 512] [--batch-size 8] [--cores 2] [--rounds 3]
          [--set KEY=VALUE]... [--bin build/bin] [--keep DIR]

Run it with a Python that has auto-round (0.16.1; torch.compile off, as it fails on CPUs with torch 2.9.1). The two take
turns, auto-round first. Tuning: auto-round's own "quantization tuning time", and the seconds of all block reports of
Roundhouse (loading, both forward passes and the loop). Whole: from start to end of the process, the output written; for
Roundhouse that includes five daemons and the verification of the result. Memory: the highest sum of the resident sizes
of all processes, shared pages counted in each. --set goes to Roundhouse alone, to measure another recipe.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

PEER = """
import sys
from auto_round import AutoRound
model, text, out, iters, nsamples, seqlen, batch = sys.argv[1:]
AutoRound(model, scheme="W4A16", dataset=text, seed=42, enable_torch_compile=False, iters=int(iters), nsamples=int(nsamples),
          seqlen=int(seqlen), batch_size=int(batch)).quantize_and_save(out, format="auto_round")
"""


def resident(root):
    """KiB of a process and all below it."""
    parents, sizes = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                status = pathlib.Path("/proc", entry, "status").read_text()
            except OSError:
                continue
            fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            parents[int(entry)] = int(fields["PPid"])
            sizes[int(entry)] = int(fields.get("VmRSS", "0 kB").split()[0])
    total = 0
    for pid, size in sizes.items():
        at = pid
        while at not in (0, root):
            at = parents.get(at, 0)
        total += size if at == root else 0
    return total


def measure(command, cores, environment):
    """Wall seconds, peak MiB, output."""
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment},
                               preexec_fn=lambda: os.sched_setaffinity(0, cores))
    peak, done = [0], threading.Event()

    def watch():
        while not done.wait(0.2):
            peak[0] = max(peak[0], resident(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output = process.communicate()[0]
    seconds = time.monotonic() - begin
    done.set()
    watcher.join()
    if process.returncode != 0:
        sys.exit(f"{' '.join(command[:4])} ... ended with {process.returncode}:\n{output[-4000:]}")
    return seconds, peak[0] / 1024, output


def auto_round(a, cores, folder):
    threads = str(len(cores))
    command = [sys.executable, "-c", PEER, a.model, a.text, str(folder), *map(str, (a.iters, a.nsamples, a.seqlen, a.batch_size))]
    seconds, memory, output = measure(command, cores, {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads})
    found = re.findall(r"tuning time:? ([0-9.]+)", output)
    if not found:
        sys.exit(f"auto-round printed no tuning time:\n{output[-4000:]}")
    return dict(tuning=float(found[-1]), whole=seconds, memory=memory)


def roundhouse(a, cores, folder):
    program = str(pathlib.Path(a.bin, "roundhouse"))
    state = f"{folder}.state"
    settings = dict(calibration=dict(dataset=os.path.abspath(a.text), nsamples=a.nsamples, seqlen=a.seqlen),
                    quant=dict(iters=a.iters, batch_size=a.batch_size))
    recipe = pathlib.Path(f"{folder}.json")
    recipe.write_text(json.dumps(settings))
    command = [program, "run", a.model, "--recipe", str(recipe), "--output", str(folder), "--state", state,
               "--set", f"resources.threads={len(cores)}"]
    for assignment in a.set:
        command += ["--set", assignment]
    seconds, memory, _ = measure(command, cores, {})
    jobs = json.loads(subprocess.check_output([program, "list", "--all", "--json", "--state", state]))["jobs"]
    job = json.loads(subprocess.check_output([program, "show", jobs[0]["id"], "--json", "--state", state]))
    blocks = job.get("job", job)["block_metrics"]
    if not blocks:
        sys.exit(f"no block was tuned, says {state}")
    return dict(tuning=sum(b["seconds"] for b in blocks), whole=seconds, memory=memory)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model")
    ap.add_argument("text")
    ap.add_argument("--iters", type=int, default=200)
    ap.add_argument("--nsamples", type=int, default=64)
    ap.add_argument("--seqlen", type=int, default=512)
    ap.add_argument("--batch-size", type=int, default=8)
    ap.add_argument("--cores", type=int, default=2)
    ap.add_argument("--rounds", type=int, default=3)
    ap.add_argument("--set", action="append", default=[])
    ap.add_argument("--bin", default="build/bin")
    ap.add_argument("--keep", help="leave the checkpoints of the last round in this folder")
    a = ap.parse_args()
    cores = set(sorted(os.sched_getaffinity(0))[: a.cores])
    if len(cores) < a.cores:
        sys.exit(f"only {len(cores)} cores here")
    work = pathlib.Path(a.keep or tempfile.mkdtemp(prefix="rh-peer-"))
    work.mkdir(parents=True, exist_ok=True)
    sides = {"auto-round": auto_round, "roundhouse": roundhouse}
    results = {name: [] for name in sides}
    print(f"{a.model}: {a.iters} iterations, {a.nsamples} x {a.seqlen} tokens, batch {a.batch_size}, {a.cores} cores {' '.join(a.set)}")
    for turn in range(a.rounds):
        for name, run in sides.items():
            folder = work / name
            for path in work.glob(name + "*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            r = run(a, cores, folder)
            results[name].append(r)
            print(f"round {turn + 1}  {name:10}  tuning {r['tuning']:8.2f} s  whole {r['whole']:8.2f} s  memory {r['memory']:7.0f} MiB  "
                  f"load {os.getloadavg()[0]:.1f}", flush=True)
    for key in ("tuning", "whole", "memory"):
        ratios = [p[key] / o[key] for p, o in zip(results["auto-round"], results["roundhouse"])]
        print(f"{key:7} auto-round / roundhouse: {statistics.median(ratios):.2f} (from {min(ratios):.2f} to {max(ratios):.2f})")
    if not a.keep:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
