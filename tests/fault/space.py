"""Disks that fill up: for a while, with real bytes; and at every single write, through a preloaded library."""
import os
import random
import time

import kills
from factory import Failed
from power import Disk, need_loop_devices

DISK_MIB = 256


def fills(context, wanted):
    """State and output lie on small disks of their own; one of them is filled to the last byte and emptied again."""
    need_loop_devices(context.root)
    for i in range(wanted):
        luck = random.Random(f"{context.seed} space {i}")
        disk = Disk(context.root / "full", DISK_MIB)
        filler = disk.place / "filler"
        on_state = i % 2 == 0
        run = kills.Run(context, disk.place / "factory" if on_state else context.root / "space",
                        output=None if on_state else disk.place / "out")
        try:
            time.sleep(luck.uniform(0.0, context.baseline_seconds * 0.8))
            fill(filler)
            time.sleep(luck.uniform(0.5, 4.0))
            answers(run.factory)
            filler.unlink()
            kills.guarded(run)
        except BaseException:
            run.abandon()
            raise
        finally:
            disk.remove()
        context.say(f"{'state' if on_state else 'output'} disk was full, same bytes")
    return wanted, wanted


def fill(path):
    """Every free byte, whatever the file system keeps for itself."""
    with open(path, "wb", buffering=0) as file:
        size = 1 << 20
        while size >= 512:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2
        os.fsync(file.fileno())


def answers(factory):
    """A full disk must not silence the orchestrator."""
    status, _ = factory.ask("GET", "/v1/jobs")
    if status != 200:
        raise Failed(f"the orchestrator answers with {status} while the disk is full")


def carry_on(run):
    """An operator who has made room. Without one a job goes on by itself, but only every 30 s, as fills() shows."""
    try:
        if run.factory.job(run.job).get("state") == "blocked":
            run.factory.ask("PATCH", f"/v1/jobs/{run.job}", {"desired": "run"})
    except OSError:
        pass


def every_write(context):
    """Runs until a run finds no write that has not failed once. Reduced: one run with a few failures."""
    library = context.bin.parent / "tests/fault/libfault_io.so"
    if not library.exists():
        raise Failed(f"{library} is not built")
    seen = context.root / "seen"
    seen.mkdir(exist_ok=True)
    runs = 0
    budget = 200 if context.full else 6
    while True:
        env = {"LD_PRELOAD": str(library), "RH_SHIM_ROOT": str(context.root / "writes"), "RH_SHIM_SEEN": str(seen),
               "RH_SHIM_RUN": str(runs), "RH_SHIM_BUDGET": str(budget)}
        before = len(list(seen.glob("w-*")))
        run = kills.Run(context, context.root / "writes", env=env)
        kills.guarded(run, lambda: carry_on(run), 900)
        runs += 1
        failed = len(list(seen.glob("w-*")))
        context.say(f"{failed - before} more writes failed once, {failed} in all, same bytes")
        if failed == before or not context.full:
            return failed, runs
