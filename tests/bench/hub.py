"""One large file from the fake Hub on the loopback: by roundhouse (range request, sha256, fsync), by curl (nothing but writing), and by curl
with sha256sum and sync behind it, which is the same work.

  hub.py [--build BUILD_DIRECTORY] [--mib 2048] [--rounds 5] [--folder FOLDER]
Prints the median seconds, rates, and the ratio of roundhouse's rate to curl's. FOLDER needs room for three times the file.
"""
import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


def timed(*commands):
    start = time.perf_counter()
    for command in commands:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build")
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        model, ready = pathlib.Path(folder) / "model", pathlib.Path(folder) / "ready"
        model.mkdir()
        with open(model / "big.safetensors", "wb") as f:
            for _ in range(options.mib):
                f.write(os.urandom(1 << 20))
        server = subprocess.Popen([sys.executable, ROOT / "tests" / "support" / "fake_hub.py", model, "--ready", ready])
        try:
            while not ready.exists():
                time.sleep(0.05)
            endpoint = ready.read_text()
            os.environ |= {"HF_ENDPOINT": endpoint, "HF_HOME": folder + "/home"}
            os.environ.pop("HF_HUB_OFFLINE", None)
            target = folder + "/curl.out"
            curl = ["curl", "-s", "-L", "-o", target, f"{endpoint}/acme/nano/resolve/main/big.safetensors"]
            seconds = {"roundhouse": [], "curl": [], "curl, sha256sum, sync": []}
            for _ in range(options.rounds):
                work = folder + "/work"
                ours = [options.build / "tests/bench/bench_hub", "hf:acme/nano", "big.safetensors", work]
                seconds["roundhouse"].append(float(subprocess.run(ours, check=True, stdout=subprocess.PIPE, text=True).stdout))
                shutil.rmtree(work)
                seconds["curl"].append(timed(curl))
                os.unlink(target)
                seconds["curl, sha256sum, sync"].append(timed(curl, ["sha256sum", target], ["sync", target]))
                os.unlink(target)
        finally:
            server.kill()
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in middle.items():
        print(f"{name:22} {value:6.2f} s  {options.mib / value:7.0f} MiB/s")
    for name in list(middle)[1:]:
        print(f"roundhouse / {name}: {middle[name] / middle['roundhouse']:.2f}")


main()
