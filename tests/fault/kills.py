"""kill -9 at random moments, and at every named point of the programs."""
import os
import random
import re
import signal
import subprocess
import time

from factory import SOURCE, STAGES, Factory, Failed, check_database, check_published, fresh

PER_STAGE = 2   # a task that dies three times is quarantined, and rightly so
PER_RUN = 8
STARTS_MAX = 50
RECOVERY = 2.0  # seconds until a started orchestrator answers


def crash_points():
    """All names given to rh_crash_point() in the source; nobody keeps a list by hand."""
    found = set()
    for folder in ("core", "stages", "orchestrator"):
        for path in (SOURCE / folder).rglob("*.c"):
            found |= set(re.findall(r'rh_crash_point\("(\w+)"\)', path.read_text()))
    if not found:
        raise Failed("no crash points in the source")
    return sorted(found)


class Apart:
    """Daemons that nobody supervises but this test, as systemd would: they outlive the orchestrator."""

    def __init__(self, factory, env=None, endpoint=None, grace=90):
        self.factory = factory
        self.grace = grace
        self.env = {**factory.env, **(env or {})}
        self.endpoint = endpoint or f"ipc://{factory.run}/work.sock"
        self.processes = {}

    def revive(self):
        for name in STAGES:
            old = self.processes.get(name)
            if old is None or old.poll() is not None:
                self.processes[name] = subprocess.Popen(
                    [self.factory.bin / name, "--connect", self.endpoint, "--state", self.factory.state, "--worker", name,
                     "--grace", str(self.grace)],
                    env=self.env, stdout=self.factory.log, stderr=self.factory.log, start_new_session=True)

    def stop(self):
        for process in self.processes.values():
            process.terminate()
        for name, process in self.processes.items():
            try:
                process.wait(60)
            except subprocess.TimeoutExpired as error:
                raise Failed(f"{name} did not stop in 60 s of SIGTERM") from error


class Run:
    """One job on a fresh factory that is brought back to life whenever it dies."""

    def __init__(self, context, root, apart=False, env=None, output=None):
        self.context = context
        self.factory = Factory(context.bin, fresh(root), spawn=not apart)
        self.env = env
        self.recoveries = []
        if self.factory.start(env) is None:
            self.revive_until_ready()
        self.apart = Apart(self.factory, env) if apart else None
        if self.apart:
            self.apart.revive()
        self.output = output or root / "out"
        # The submission may meet a fault too; the token keeps a second try from making a second job.
        self.job = self.factory.submit(context.model, self.output, token="run", each=self.revive)

    def revive_until_ready(self):
        """A start may meet a fault as well: it is tried again as a service manager would."""
        for _ in range(STARTS_MAX):
            self.factory.close_log()
            seconds = self.factory.start(self.env)
            if seconds is not None:
                return seconds
            time.sleep(0.1)
        raise Failed(f"roundhoused does not start in {STARTS_MAX} tries")

    def revive(self):
        if self.factory.process.poll() is not None:
            self.recoveries.append(self.revive_until_ready())
        if self.apart:
            self.apart.revive()

    def finish(self, each=None, seconds=300):
        def step():
            self.revive()
            if each:
                each()

        self.factory.wait(self.job, seconds, step)
        if self.factory.stop() != 0:
            raise Failed("roundhoused did not leave cleanly")
        if self.apart:
            self.apart.stop()
        check_published(self.factory, self.output, self.context.model, self.context.expected)
        check_database(self.factory)
        # What a start costs without a crash is the machine's business, not recovery's.
        slow = [seconds for seconds in self.recoveries if seconds > RECOVERY * self.context.patience]
        if slow:
            raise Failed(f"recovery took {max(slow):.1f} s")

    def abandon(self):
        self.factory.kill_all()
        for process in (self.apart.processes if self.apart else {}).values():
            process.kill()
            process.wait()


def guarded(run, each=None, seconds=300):
    try:
        run.finish(each, seconds)
    except BaseException:
        run.abandon()
        raise


def random_kills(context, wanted):
    """Returns how many processes were killed; the daemons are supervised in every other run."""
    killed = 0
    runs = 0
    while killed < wanted:
        luck = random.Random(f"{context.seed} kills {runs}")
        run = Run(context, context.root / "kills", apart=runs % 2 == 1)
        count = {}

        def strike():
            nonlocal killed
            time.sleep(luck.uniform(0.02, context.baseline_seconds / 8))
            names = [n for n in (*STAGES, "roundhoused") if count.get(n, 0) < PER_STAGE]
            pids = run.factory.pids()
            alive = [n for n in names if pids.get(n)]
            if not alive or sum(count.values()) >= PER_RUN or killed >= wanted:
                return
            name = luck.choice(alive)
            try:
                os.kill(luck.choice(sorted(pids[name])), signal.SIGKILL)
            except ProcessLookupError:
                return
            count[name] = count.get(name, 0) + 1
            killed += 1
            if name == "roundhoused":
                run.factory.process.wait()

        guarded(run, strike)
        runs += 1
        context.say(f"{killed} of {wanted} random kills, {runs} runs, same bytes")
    return killed, runs


def named_kills(context, visits):
    """Every point at every visit, several in a run; a visit that never comes is no kill."""
    killed = 0
    runs = 0
    points = crash_points()
    died = dict.fromkeys(points, 0)
    for visit in visits:
        for first in range(0, len(points), PER_RUN // 2):
            some = points[first:first + PER_RUN // 2]
            once = fresh(context.root / "once")
            wanted = ",".join(f"{point}:{visit}:{once}/{point}" for point in some)
            guarded(Run(context, context.root / "named", apart=runs % 2 == 1, env={"RH_CRASH_AT": wanted}))
            for point in some:
                died[point] += (once / point).exists()
            runs += 1
            killed = sum(died.values())
            context.say(f"{killed} kills at {len(points)} named points, {runs} runs, same bytes")
    missed = [point for point in points if died[point] == 0]
    if missed:
        raise Failed(f"no process ever came to {', '.join(missed)}")
    return killed, runs
