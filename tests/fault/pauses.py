"""SIGSTOP: every program stands still for a while, as on a suspended machine, and goes on."""
import os
import random
import signal
import time

import kills
from factory import STAGES, Failed


def stops(context, seconds):
    """All programs are stopped at the same time, each in a factory of its own, so that it takes no longer than one."""
    names = (*STAGES, "roundhoused")
    luck = random.Random(f"{context.seed} pauses")
    runs = [kills.Run(context, context.root / f"pause-{name}") for name in names]
    stopped = []
    try:
        for name, run in zip(names, runs):
            time.sleep(luck.uniform(0.0, context.baseline_seconds / 4))
            pids = run.factory.pids().get(name)
            if not pids:
                raise Failed(f"there is no {name} to stop")
            os.kill(pids[0], signal.SIGSTOP)
            stopped.append(pids[0])
        time.sleep(seconds)
        for pid in stopped:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass  # its lease ended and its supervisor replaced it
        for run in runs:
            kills.guarded(run)
    except BaseException:
        for pid in stopped:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass
        for run in runs:
            run.abandon()
        raise
    return len(names), len(runs)
