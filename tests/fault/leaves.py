"""SIGTERM to the tuner in the middle of a block: with time it ends the block, without time it goes back to the last one, a
second signal does not wait, and the bytes are those of an undisturbed run each time."""
import os
import signal
import subprocess
import time

import kills
from factory import Factory, Failed, baseline, check_database, check_published, fresh

ITERATIONS = 40  # long blocks: there is a middle to hit


class Tuning:
    """A factory whose tuner is ours, so that its exit code is seen; the other daemons are supervised by kills.Apart."""

    def __init__(self, context, root, grace):
        self.context = context
        self.factory = Factory(context.bin, fresh(root), spawn=False)
        if self.factory.start() is None:
            raise Failed("roundhoused does not start")
        self.apart = kills.Apart(self.factory, grace=grace)
        self.apart.revive()
        self.output = root / "out"
        self.job = self.factory.submit(context.model, self.output, settings={"quant.iters": ITERATIONS})

    def blocks(self):
        return self.factory.job(self.job)["blocks"]

    def until_inside(self, block):
        """In the first half of it."""
        began = time.monotonic()
        while time.monotonic() - began < 120:
            now = self.blocks()
            if now["done"] > block:
                raise Failed(f"block {block} was over before it could be interrupted; let ITERATIONS be more")
            if now["done"] == block and now.get("iters") and 0 < now.get("iter", 0) < now["iters"] // 2 and now["current"] == block:
                return
            time.sleep(0.01)
        raise Failed(f"block {block} does not begin")

    def terminate(self, times=1):
        """Returns exit code and blocks done once the tuner has left."""
        process = self.apart.processes["rh-quantize"]
        for _ in range(times):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3 if times > 1 else 0)
        try:
            code = process.wait(60)
        except subprocess.TimeoutExpired as error:
            raise Failed("rh-quantize did not leave in 60 s") from error
        return code, self.blocks()["done"]

    def finish(self, expected):
        self.factory.wait(self.job, 300, self.apart.revive)
        if self.factory.stop() != 0:
            raise Failed("roundhoused did not leave cleanly")
        self.apart.stop()
        check_published(self.factory, self.output, self.context.model, expected)
        check_database(self.factory)

    def abandon(self):
        self.factory.kill_all()
        for process in self.apart.processes.values():
            process.kill()
            process.wait()


def undisturbed(context):
    return baseline(context.bin, context.root / "leaves-calm", context.model, {"quant.iters": ITERATIONS})[0]


def terminations(context):
    expected = undisturbed(context)
    cases = (  # grace, signals, exit code, blocks done when it has left
        (90, 1, 0, 2),
        (0, 1, 0, 1),
        (90, 2, 128 + signal.SIGTERM, 1),
    )
    for grace, times, code, done in cases:
        run = Tuning(context, context.root / "leaves", grace)
        try:
            run.until_inside(1)
            got = run.terminate(times)
            if got != (code, done):
                raise Failed(f"grace {grace} s, {times} signals: exit code {got[0]} with {got[1]} blocks done, "
                             f"expected {code} with {done}")
            run.finish(expected)
        except BaseException:
            run.abandon()
            raise
        context.say(f"grace {grace} s, {times} x SIGTERM: exit code {code}, {done} blocks, same bytes")
    return sum(times for _, times, _, _ in cases), len(cases)
