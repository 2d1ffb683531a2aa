#!/usr/bin/env python3
"""The whole factory on a machine with a GPU:

  gpu_factory.py --bin DIR --out DIR [--model DIR] [--dataset FILE] [--iters N] [--nsamples N] [--seqlen N] [--seeds 42,1,2]
             [--cpu-seeds 42] [--set KEY=VALUE]...

One job of each seed on the GPU, the first of them twice, which must give the same bytes, and one on the CPU; every checkpoint is
verified against its source, every block's report must name the backend. With several GPUs, two jobs for each at once on as
many workers, one of which is killed in a block: its job must end on another with the bytes of the undisturbed run.
Checkpoints stay in --out, for whoever has an evaluator."""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "tests/fault"))
from factory import Factory, Failed, check_database, check_published, fresh  # noqa: E402


def gpus():
    reply = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True)
    return reply.stdout.split("\n")[:-1] if reply.returncode == 0 else []


def settings(args, backend, seed):
    chosen = {"calibration.dataset": str(args.dataset), "calibration.nsamples": args.nsamples, "calibration.seqlen": args.seqlen,
              "calibration.seed": seed, "quant.seed": seed, "quant.iters": args.iters, "resources.backend": backend,
              "resources.threads": 0}
    for word in args.set:
        key, value = word.split("=", 1)
        try:
            chosen[key] = json.loads(value)
        except json.JSONDecodeError:
            chosen[key] = value
    return chosen


def reports(factory, job):
    paths = sorted((factory.state / "jobs" / job).glob("**/tune-*/report.json"))
    return [json.loads(path.read_text()) for path in paths]


def expect_backend(factory, job, backend):
    found = [(report["backend"], report.get("device")) for report in reports(factory, job)]
    if not found or any(name != backend for name, _ in found):
        raise Failed(f"{backend} was asked for, the reports say {found}")
    return found[0][1]


def one(args, name, backend, seed):
    """A factory of its own for one job."""
    factory = Factory(args.bin, fresh(args.work / name), env=args.env)
    output = args.out / name
    shutil.rmtree(output, ignore_errors=True)
    factory.start()
    began = time.monotonic()
    job = factory.submit(args.model, output, settings(args, backend, seed))
    factory.wait(job, seconds=args.seconds)
    seconds = time.monotonic() - began
    device = expect_backend(factory, job, backend)
    losses = ", ".join(f"{report['best_loss']:.3e}" for report in reports(factory, job))
    factory.stop()
    digests = check_published(factory, output, args.model)
    check_database(factory)
    print(f"{name}: verified, {seconds:.1f} s, {device or 'main memory'}, best losses {losses}", flush=True)
    return digests


def workers(factory, count):
    """One daemon of each stage, but a tuner for each GPU, started by hand as on a host that scales out."""
    started = {}
    for stage in ("rh-download", "rh-calibrate", "rh-pack", "rh-publish"):
        started[stage] = [stage]
    for gpu in range(count):
        started[f"gpu-{gpu}"] = ["rh-quantize", "--backend", "cuda", "--device", str(gpu)]
    log = open(factory.root / "workers.log", "ab")
    common = ["--connect", f"ipc://{factory.run}/work.sock", "--state", str(factory.state),
              "--exit-with-parent", str(os.getpid())]
    return {name: subprocess.Popen([factory.bin / words[0], *words[1:], *common, "--worker", name], env=factory.env,
                                   stdout=log, stderr=log) for name, words in started.items()}


def tuning(factory, job):
    """The worker whose hands a job's tuning is in, once a block is done and before the last one is."""
    events = factory.listen(job)
    done = [event for event in events if event["type"] == "block.done"]
    assigned = [event for event in events if event["type"] in ("task.assigned", "task.started") and event.get("op") == "tune"]
    if not done or not assigned:
        return None
    return assigned[-1].get("worker")


def several(args, count, expected):
    """`expected`: digests by seed; a job for each, since jobs of one seed would share their results."""
    factory = Factory(args.bin, fresh(args.work / "several"), env=args.env, spawn=False)
    factory.start()
    daemons = workers(factory, count)
    outputs = {seed: args.out / f"several-{seed}" for seed in expected}
    for output in outputs.values():
        shutil.rmtree(output, ignore_errors=True)
    began = time.monotonic()
    jobs = {factory.submit(args.model, output, settings(args, "cuda", seed)): seed for seed, output in outputs.items()}
    killed = None
    deadline = time.monotonic() + args.seconds
    while killed is None:
        for job in jobs:
            worker = tuning(factory, job)
            if worker in daemons and factory.job(job)["state"] == "running":
                killed = worker
                daemons[worker].send_signal(signal.SIGKILL)
                daemons[worker].wait()
                break
        if time.monotonic() > deadline:
            raise Failed("no block ended in time")
        time.sleep(0.02)
    used = set()
    for job, seed in jobs.items():
        factory.wait(job, seconds=args.seconds)
        used |= {event.get("worker") for event in factory.listen(job) if event.get("op") == "tune"}
        expect_backend(factory, job, "cuda")
        check_published(factory, outputs[seed], args.model, expected[seed])
    seconds = time.monotonic() - began
    for daemon in daemons.values():
        daemon.terminate()
    factory.stop()
    check_database(factory)
    tuners = sorted(name for name in used if name in daemons and name.startswith("gpu-"))
    if len(tuners) < 2:
        raise Failed(f"only {tuners} tuned, of {count} GPUs")
    print(f"{len(jobs)} jobs on {', '.join(tuners)}, {killed} killed in a block: all verified, the same bytes, {seconds:.1f} s", flush=True)


def numbers(text):
    return [int(word) for word in text.split(",") if word]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, required=True, help="folder of the programs")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument("--libs", help="folder of shared libraries that only the programs shall see")
    parser.add_argument("--model", type=Path, default=SOURCE / "tests/data/nano")
    parser.add_argument("--dataset", type=Path, default=SOURCE / "tests/data/nano-samples.jsonl")
    parser.add_argument("--iters", type=int, default=20)
    parser.add_argument("--nsamples", type=int, default=16)
    parser.add_argument("--seqlen", type=int, default=256)
    parser.add_argument("--seeds", type=numbers, default=[42])
    parser.add_argument("--cpu-seeds", type=numbers, default=[42], help="jobs on the CPU, '' for none")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the recipe")
    parser.add_argument("--seconds", type=float, default=200, help="for one job")
    args = parser.parse_args()
    args.bin, args.out = args.bin.resolve(), args.out.resolve()
    args.model, args.dataset = args.model.resolve(), args.dataset.resolve()
    args.work = args.out / "work"
    args.work.mkdir(parents=True, exist_ok=True)
    args.env = {}
    if args.libs:
        os.environ["LD_LIBRARY_PATH"] = f"{Path(args.libs).resolve()}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":")
    found = gpus()
    if not found:
        print("no GPU on this machine")
        return 77
    try:
        for seed in args.cpu_seeds:
            one(args, f"cpu-{seed}", "cpu", seed)
        seeds = args.seeds if len(found) == 1 else (args.seeds + list(range(1000, 1000 + 2 * len(found))))[:2 * len(found)]
        expected = {seed: one(args, f"cuda-{seed}", "cuda", seed) for seed in seeds}
        if one(args, "cuda-again", "cuda", seeds[0]) != expected[seeds[0]]:
            raise Failed("two runs on the GPU gave different bytes")
        if len(found) > 1:
            several(args, len(found), expected)
        else:
            print("one GPU: several workers were not tried")
    except Failed as error:
        print(f"failed: {error}")
        return 1
    shutil.rmtree(args.work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
