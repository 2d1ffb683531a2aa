"""Does the fake Hub of the tests speak the Hub's protocol? huggingface_hub downloads from it, and roundhouse takes what that left in
the cache, without any Hub.

  python hub_oracle.py [BUILD_DIRECTORY]          the python must have huggingface_hub
"""
import filecmp
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
NANO = ROOT / "tests" / "data" / "nano"


def main():
    build = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build").resolve()
    with tempfile.TemporaryDirectory() as folder:
        ready = pathlib.Path(folder) / "ready"
        server = subprocess.Popen([sys.executable, ROOT / "tests" / "support" / "fake_hub.py", NANO, "--ready", ready])
        try:
            while not ready.exists():
                assert server.poll() is None, "the fake Hub did not start"
                time.sleep(0.05)
            os.environ |= {"HF_ENDPOINT": ready.read_text(), "HF_HOME": f"{folder}/home", "HF_HUB_DISABLE_XET": "1",
                           "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
            import huggingface_hub
            got = pathlib.Path(huggingface_hub.snapshot_download("acme/nano"))
        finally:
            server.kill()
            server.wait()
        names = sorted(path.name for path in NANO.iterdir())
        assert sorted(path.name for path in got.iterdir()) == names, f"{got} has other files than {NANO}"
        for name in names:
            assert filecmp.cmp(NANO / name, got / name, shallow=False), f"{name} is another file"
        print(f"huggingface_hub {huggingface_hub.__version__}: {len(names)} files, all as they are in {NANO}")
        offline = os.environ | {"HF_HUB_OFFLINE": "1"}
        plans = [subprocess.run([build / "bin" / "roundhouse", "plan", model, "--recipe", "tiny", "--json"], env=offline, check=True,
                                capture_output=True, text=True, cwd=folder).stdout for model in ("acme/nano", NANO)]
        same = [[line for line in plan.splitlines() if '"model"' not in line and '"files"' not in line and '"all"' not in line]
                for plan in plans]
        assert same[0] == same[1], "the plan of the cache is another one than that of the directory"
        print("roundhouse plan acme/nano, offline: as of the directory")


main()
