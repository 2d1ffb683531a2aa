"""Power cuts: the factory works on an ext4 image; everything is killed and the image copied at once, without what the page cache
still held. The copy, mounted, is what a machine finds after the cut."""
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import kills
from factory import SOURCE, Factory, Failed, check_database, check_published, digests

IMAGE_MIB = 512


class Skipped(Exception):
    """This machine cannot do it."""


def command(*words):
    reply = subprocess.run([str(w) for w in words], capture_output=True, text=True)
    if reply.returncode != 0:
        raise OSError(f"{' '.join(map(str, words))}: {reply.stderr.strip()}")


class Disk:
    """An ext4 file system in a file."""

    def __init__(self, folder, mib=IMAGE_MIB):
        self.image = Path(folder) / "disk.img"
        self.place = Path(folder) / "disk"
        self.place.mkdir(parents=True, exist_ok=True)
        with open(self.image, "wb") as file:
            file.truncate(mib << 20)
        command("mkfs.ext4", "-q", "-F", "-m", "0", self.image)
        self.mount()

    def mount(self):
        command("mount", "-o", "loop", self.image, self.place)

    def unmount(self):
        for _ in range(100):
            try:
                return command("umount", self.place)
            except OSError as error:
                last = error
                time.sleep(0.05)
        raise last

    def cut(self):
        """Nothing may be running on it any more."""
        after = self.image.with_suffix(".after")
        command("cp", "--sparse=always", self.image, after)
        self.unmount()
        os.replace(after, self.image)
        self.mount()

    def remove(self):
        self.unmount()
        self.image.unlink()


def need_loop_devices(folder):
    if os.geteuid() != 0:
        raise Skipped("only root can mount an image")
    if not shutil.which("mkfs.ext4"):
        raise Skipped("there is no mkfs.ext4")
    try:
        Disk(folder, 16).remove()
    except OSError as error:
        raise Skipped(f"no loop device: {error}") from error


def start_again(factory):
    """The crash point may lie in the submission."""
    if factory.process.poll() is not None:
        factory.close_log()
        factory.start()


def one_run(context, disk, luck, point=None, bin_dir=None):
    """A job with a cut in the middle; returns False when it was over before the cut."""
    root = disk.place / "factory"
    shutil.rmtree(root, ignore_errors=True)
    # Sockets lie elsewhere: a run directory does not survive a reboot.
    run_dir = context.root / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir()
    os.sync()
    factory = Factory(bin_dir or context.bin, root, run_dir=run_dir)
    once = context.root / "cut-once"
    once.unlink(missing_ok=True)
    env = {"RH_CRASH_AT": f"{point}:{luck.randint(1, 6)}:{once}"} if point else {}
    output = root / "out"
    try:
        factory.start(env)
        job = factory.submit(context.model, output, token="power", each=lambda: start_again(factory))
        moment = time.monotonic() + luck.uniform(0.1, context.baseline_seconds)
        while time.monotonic() < moment and not once.exists() and factory.process.poll() is None:
            try:
                factory.listen(job)
            except OSError:
                pass
            time.sleep(0.005)
        complete = digests(output) if output.is_dir() else None
        factory.kill_all()
        disk.cut()
        factory.start()
        # The submission was answered, so it is a fact; the same token finds the same job.
        if factory.submit(context.model, output, token="power") != job:
            raise Failed("an acknowledged job is gone")
        factory.wait(job)
        factory.stop()
        check_published(factory, output, context.model, context.expected)
        check_database(factory)
        return complete is None
    except BaseException:
        factory.kill_all()
        raise


def cuts(context, wanted, bin_dir=None):
    need_loop_devices(context.root)
    disk = Disk(context.root)
    try:
        points = kills.crash_points()
        early = 0
        for i in range(wanted):
            luck = random.Random(f"{context.seed} power {i}")
            point = points[i // 2 % len(points)] if i % 2 else None
            early += one_run(context, disk, luck, point, bin_dir)
            context.say(f"cut {i + 1} of {wanted}{' at ' + point if point else ''}: same bytes")
        if early == 0:
            raise Failed("every cut came after the publication; the test shows nothing")
        return wanted, wanted
    finally:
        disk.remove()


# What is cut out of a build: (what, [(file, line, instead)]). Tensors are synced when their file is finished and once more when
# their artifact is sealed, so both must go before a power cut can take them.
MUTANTS = (
    ("documents", [("core/base/fs_out.c", "if (fsync(o->fd) != 0)", "if (0)")]),
    ("tensors", [("core/checkpoint/safetensors_writer.c", "if (fsync(w->fd) != 0)", "if (0)"),
                 ("core/store/store.c", "if (fsync(fd) != 0)", "if (0)")]),
)
TRIES = 30


def build_mutant(folder, edits):
    tree = folder / "mutant"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(SOURCE, tree, ignore=shutil.ignore_patterns("build*", ".git", "demo-out"), symlinks=True)
    for path, line, instead in edits:
        text = (tree / path).read_text()
        if text.count(line) != 1:
            raise Failed(f"{path} does not have the line \"{line}\" once; the test must follow the source")
        (tree / path).write_text(text.replace(line, instead))
    command("cmake", "-S", tree, "-B", tree / "build", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DRH_CUDA=OFF", "-DRH_TESTS=OFF",
            "-DRH_WERROR=OFF")
    command("cmake", "--build", tree / "build")
    return tree / "build/bin"


def mutants(context):
    """A build that does not sync must be caught by the same test, or the test is blind."""
    need_loop_devices(context.root)
    runs = 0
    for what, edits in MUTANTS:
        bin_dir = build_mutant(context.root, edits)
        for tries in range(TRIES):
            disk = Disk(context.root)
            runs += 1
            try:
                luck = random.Random(f"{context.seed} mutant {what} {tries}")
                one_run(context, disk, luck, luck.choice(kills.crash_points()), bin_dir)
            except Failed as caught:
                context.say(f"{what} without fsync are caught after {tries + 1} cuts: {caught}")
                break
            finally:
                disk.remove()
        else:
            raise Failed(f"{what} without fsync came through {TRIES} power cuts")
    return len(MUTANTS), runs
