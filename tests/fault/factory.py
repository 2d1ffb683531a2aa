"""A factory as an operator runs it: roundhoused with its five daemons, spoken to over its own HTTP API."""
import hashlib
import http.client
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
STAGES = ("rh-download", "rh-calibrate", "rh-quantize", "rh-pack", "rh-publish")
FINAL = ("done", "failed", "cancelled")


class Failed(Exception):
    """A run that did not do what it must."""


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=20)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Factory:
    """One state directory and the programs that work on it."""

    def __init__(self, bin_dir, root, env=None, run_dir=None, spawn=True):
        self.bin = Path(bin_dir)
        self.root = Path(root)
        self.state = self.root / "state"
        self.run = Path(run_dir) if run_dir else self.state / "run"
        self.env = dict(os.environ, **(env or {}))
        self.spawn = spawn
        self.process = None
        self.log = None
        self.seen = {}  # job: events that the API has told us, which must never be unsaid

    def start(self, env=None, wait=20):
        self.root.mkdir(parents=True, exist_ok=True)
        self.log = open(self.root / "roundhoused.log", "ab")
        command = [self.bin / "roundhoused", "--state", self.state, "--run", self.run]
        self.process = subprocess.Popen(command + (["--spawn"] if self.spawn else []), env={**self.env, **(env or {})},
                                        stdout=self.log, stderr=self.log, start_new_session=True)
        began = time.monotonic()
        while time.monotonic() - began < wait:
            if self.process.poll() is not None:
                return None
            try:
                if self.ask("GET", "/readyz")[0] == 200:
                    return time.monotonic() - began
            except OSError:
                pass
            time.sleep(0.01)
        raise Failed(f"roundhoused did not answer in {wait} s")

    def ask(self, method, path, body=None):
        connection = UnixConnection(self.run / "api.sock")
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"} if text else {})
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read() or b"{}")
        except (http.client.HTTPException, json.JSONDecodeError) as error:
            raise OSError(str(error)) from error
        finally:
            connection.close()

    def submit(self, model, output, settings=None, token=None, recipe=None, each=None):
        recipe = recipe or recipe_for(settings)
        body = {"model": f"file:{model}", "output": f"dir:{output}", "recipe": recipe}
        if token:
            body["token"] = token
        deadline = time.monotonic() + 60
        while True:
            try:
                status, job = self.ask("POST", "/v1/jobs", body)
                if status in (200, 201):
                    return job["id"]
                if status < 500:
                    raise Failed(f"the job was refused with {status}: {job}")
            except OSError:
                pass
            if each:
                each()
            if time.monotonic() > deadline:
                raise Failed("no job could be submitted in 60 s")
            time.sleep(0.1)

    def job(self, job_id):
        return self.ask("GET", f"/v1/jobs/{job_id}")[1]

    def listen(self, job_id):
        """Reads the new events of a job; each is a fact from now on."""
        seen = self.seen.setdefault(job_id, [])
        while True:
            after = seen[-1]["seq"] if seen else 0
            status, body = self.ask("GET", f"/v1/jobs/{job_id}/events?after={after}&limit=1000")
            if status != 200:
                return seen
            seen += body["events"]
            if len(body["events"]) < 1000:
                return seen

    def pids(self):
        """The live processes of this state directory by program name."""
        found = {}
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace").split("\0")
                if Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                    continue
            except OSError:
                continue
            name = os.path.basename(words[0])
            if (name in STAGES or name == "roundhoused") and str(self.state) in words:
                found.setdefault(name, []).append(int(entry))
        return found

    def kill_all(self, number=signal.SIGKILL):
        for pids in self.pids().values():
            for pid in pids:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass
        if self.process:
            self.process.wait()
        deadline = time.monotonic() + 20
        while self.pids():
            if time.monotonic() > deadline:
                raise Failed(f"processes outlive their orchestrator: {self.pids()}")
            time.sleep(0.02)
        self.close_log()

    def close_log(self):
        if self.log:
            self.log.close()
            self.log = None

    def stop(self, wait=120):
        self.process.terminate()
        try:
            code = self.process.wait(wait)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"roundhoused did not stop in {wait} s of SIGTERM") from error
        self.close_log()
        return code

    def wait(self, job_id, seconds=300, each=None, until=("done",)):
        """Waits for a state; `each` is called between two looks."""
        deadline = time.monotonic() + seconds
        state = "?"
        while time.monotonic() < deadline:
            if each:
                each()
            try:
                job = self.job(job_id)
                state = job.get("state", state)
                self.listen(job_id)
            except OSError:
                time.sleep(0.05)
                continue
            if state in until:
                return job
            if state in FINAL:
                raise Failed(f"job {job_id} is {state}: {job.get('reason')}")
            time.sleep(0.05)
        raise Failed(f"job {job_id} is still {state} after {seconds} s")


def recipe_for(settings=None):
    recipe = {"calibration": {"nsamples": 16, "seqlen": 256, "dataset": str(SOURCE / "tests/data/nano-samples.jsonl")},
              "quant": {"iters": 6, "batch_size": 8}, "mtp": {"method": "tune"}, "resources": {"prefetch_blocks": 1, "threads": 1}}
    for key, value in (settings or {}).items():
        table, name = key.split(".")
        recipe.setdefault(table, {})[name] = value
    return recipe


def digests(output):
    """name: sha256 of every file of a published checkpoint but the two that name times and places."""
    out = {}
    for path in sorted(Path(output).rglob("*")):
        if path.is_file() and path.name not in ("MANIFEST.json", "README.md"):
            out[str(path.relative_to(output))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return out


def check_published(factory, output, source, expected=None):
    """Verified as an operator would; with `expected`, byte for byte."""
    reply = subprocess.run([factory.bin / "rh-publish", "verify", output, "--source", source], capture_output=True, text=True)
    if reply.returncode != 0:
        raise Failed(f"the checkpoint does not verify: {reply.stdout[-500:]}{reply.stderr[-500:]}")
    got = digests(output)
    if expected is not None and got != expected:
        different = sorted(name for name in set(got) | set(expected) if got.get(name) != expected.get(name))
        raise Failed(f"other bytes than without the fault: {', '.join(different)}")
    return got


def check_database(factory):
    """What must hold whatever happened: spec'd invariants of tasks and events. Call it while nothing runs."""
    db = sqlite3.connect(f"file:{factory.state}/roundhouse.db?mode=ro", uri=True)
    try:
        if db.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
            raise Failed("the database is damaged")
        twice = db.execute("SELECT job, op, idx, COUNT(*) FROM event WHERE type = 'task.done' GROUP BY job, op, idx, task "
                           "HAVING COUNT(*) > 1").fetchall()
        if twice:
            raise Failed(f"results accepted twice: {twice}")
        open_tasks = db.execute("SELECT task.op, task.idx, task.state FROM task JOIN job ON job.id = task.job "
                                "WHERE job.state = 'done' AND task.state NOT IN ('done', 'skipped')").fetchall()
        if open_tasks:
            raise Failed(f"a finished job has open tasks: {open_tasks}")
        seqs = [row[0] for row in db.execute("SELECT seq FROM event ORDER BY seq")]
        if seqs != list(range(1, len(seqs) + 1)):
            raise Failed("the event log has gaps")
        for job_id, seen in factory.seen.items():
            stored = dict(db.execute("SELECT seq, type FROM event WHERE job = ?", (job_id,)))
            lost = [event["seq"] for event in seen if stored.get(event["seq"]) != event["type"]]
            if lost:
                raise Failed(f"events that had been told are gone or changed: {lost[:5]}")
    finally:
        db.close()
    staging = [str(path) for path in (factory.state / "jobs").glob("*/staging/*")]
    if staging:
        raise Failed(f"staging directories are left: {staging[:3]}")


def fresh(path):
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def baseline(bin_dir, root, model, settings=None):
    """The bytes of an undisturbed run, and how long it takes."""
    factory = Factory(bin_dir, fresh(root))
    factory.start()
    began = time.monotonic()
    job = factory.submit(model, root / "out", settings)
    factory.wait(job)
    seconds = time.monotonic() - began
    factory.stop()
    expected = check_published(factory, root / "out", model)
    check_database(factory)
    shutil.rmtree(root)
    return expected, seconds
