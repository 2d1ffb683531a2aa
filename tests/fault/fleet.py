"""A large fleet and a long time, with stages that do next to nothing (tests/orchestrator/fake_stage.c) over real sockets."""
import datetime
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from factory import STAGES, Factory, Failed, check_database, fresh

WORKERS = {"rh-download": 40, "rh-calibrate": 20, "rh-quantize": 80, "rh-pack": 40, "rh-publish": 20}
JOBS = 300
SECONDS = 60
ASSIGN_P99 = 0.050  # seconds from a result to the assignment that it made possible
CPU_SHARE = 0.5     # of one core
SLOPE = 1 << 20     # bytes an hour
LINE = re.compile(r"^(\S+) \S+ \S+ task\.(started|finished) job=(\S+) op=(\S+) index=(\d+)", re.M)


def bin_of_fakes(context):
    folder = fresh(context.root / "bin")
    # A copy: a link would lead it to the real stages, which lie beside the original.
    shutil.copy(context.bin / "roundhoused", folder)
    for name in STAGES:
        (folder / name).symlink_to(context.bin.parent / "tests/orchestrator/fake_stage")
    return folder


def recipe(model):
    return {"calibration": {"dataset": str(model / "data.jsonl")}}


def usage(pid):
    """Seconds of CPU, bytes of memory and open files of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return cpu, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(f"/proc/{pid}/fd"))


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def assign_times(logs):
    """Seconds from the end of the last task that a task waited for to its start, where that is one op's doing."""
    at = {}
    for log in logs:
        for stamp, what, job, op, index in LINE.findall(log.read_text()):
            moment = datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()
            at[what, job, op, int(index)] = moment
    times = []
    for (what, job, op, index), moment in at.items():
        if what != "started" or op not in ("calibrate", "finalize", "publish"):
            continue
        needs = {"calibrate": [("plan", 0)], "finalize": [("shard", 0), ("shard", 1)], "publish": [("finalize", 0), ("digest", 0)]}[op]
        times.append(moment - max(at["finished", job, *need] for need in needs))
    return times


def scale(context):
    """Many workers and jobs at once; what the orchestrator takes, and how long a free worker waits."""
    factory = Factory(bin_of_fakes(context), fresh(context.root / "fleet"), spawn=False)
    model = fresh(context.root / "fleet-model")
    factory.start()
    logs = fresh(context.root / "fleet-logs")
    workers = []
    try:
        for name, count in WORKERS.items():
            for i in range(count):
                with open(logs / f"{name}-{i}", "wb") as log:
                    workers.append(subprocess.Popen([factory.bin / name, "--connect", f"ipc://{factory.run}/work.sock", "--state",
                                                     factory.state, "--worker", f"{name}-{i}"], stdout=log, stderr=log))
        deadline = time.monotonic() + 60
        while len(factory.ask("GET", "/v1/workers")[1]["workers"]) < len(workers):
            if time.monotonic() > deadline:
                raise Failed("the workers did not join in 60 s")
            time.sleep(0.2)
        before, began = usage(factory.process.pid)[0], time.monotonic()
        jobs = []
        for i in range(JOBS):
            jobs.append(factory.submit(model, context.root / "fleet-out" / str(i), recipe=recipe(model)))
            time.sleep(max(0.0, began + (i + 1) * SECONDS / JOBS - time.monotonic()))
        for job in jobs:
            factory.wait(job, 120)
        seconds = time.monotonic() - began
        share = (usage(factory.process.pid)[0] - before) / seconds
        factory.stop()
        check_database(factory)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
        factory.kill_all()
    times = assign_times(logs.iterdir())
    p99 = percentile(times, 0.99)
    context.say(f"{len(workers)} workers, {JOBS} jobs in {seconds:.0f} s: assign p50 {percentile(times, 0.5) * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms "
                f"of {len(times)}, {share * 100:.0f} % of a core")
    if p99 > ASSIGN_P99 * context.patience or share > CPU_SHARE * context.patience:
        raise Failed(f"bounds are {ASSIGN_P99 * 1e3:.0f} ms and {CPU_SHARE * 100:.0f} % of a core")
    return 0, JOBS


def slope(samples):
    """Least squares, units an hour."""
    n = len(samples)
    mean_t = sum(t for t, _ in samples) / n
    mean_v = sum(v for _, v in samples) / n
    return 3600 * sum((t - mean_t) * (v - mean_v) for t, v in samples) / sum((t - mean_t) ** 2 for t, _ in samples)


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return 0  # it was being replaced
    return 1


def soak(context, seconds):
    """Tiny jobs in a loop with random kills; memory and descriptors of the orchestrator must stand still."""
    factory = Factory(bin_of_fakes(context), fresh(context.root / "soak"))
    model = fresh(context.root / "soak-model")
    luck = random.Random(f"{context.seed} soak")
    factory.start()
    pid, began = factory.process.pid, time.monotonic()
    samples, files, kills, jobs = [], set(), 0, 0
    try:
        while time.monotonic() - began < seconds:
            job = factory.submit(model, context.root / "soak-out" / str(jobs), recipe=recipe(model))
            victim = luck.choice(STAGES) if jobs % 5 == 4 else None
            if victim:
                for child in factory.pids().get(victim, []):
                    kills += kill(child)
            factory.wait(job, 120)
            factory.seen.clear()
            jobs += 1
            if factory.process.poll() is not None:
                raise Failed("roundhoused ended by itself")
            if time.monotonic() - began > seconds / 4:  # after warming up
                _, memory, descriptors = usage(pid)
                samples.append((time.monotonic(), memory))
                files.add(descriptors)
            time.sleep(0.2)
        factory.stop()
    except BaseException:
        factory.kill_all()
        raise
    growth = slope(samples)
    context.say(f"{jobs} jobs, {kills} kills in {seconds} s: memory {samples[-1][1] / 1e6:.1f} MB, {growth / 1e6:+.2f} MB an hour, "
                f"{min(files)} to {max(files)} descriptors")
    check_database(factory)
    if growth > SLOPE:
        raise Failed(f"memory grows by {growth / 1e6:.2f} MB an hour")
    if max(files) - min(files) > len(STAGES) * 4:
        raise Failed(f"descriptors wander from {min(files)} to {max(files)}")
    return kills, jobs
