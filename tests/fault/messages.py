"""A bad network between the daemons and the orchestrator: messages doubled, late, overtaking each other, lost."""
import signal
import subprocess

import kills
from factory import Failed

DOUBLE, LATE, LOST, MAX_LATE_MS = 0.15, 0.15, 0.05, 1500


def chaos(context, runs):
    faults = 0
    for i in range(runs):
        run = kills.Run(context, context.root / "messages", apart=False)
        # A second start without daemons of its own: these come through the proxy.
        run.factory.stop()
        run.factory.spawn = False
        run.factory.start()
        front = f"ipc://{run.factory.root}/front.sock"
        proxy = subprocess.Popen([context.bin.parent / "tests/fault/fault_proxy", front, f"ipc://{run.factory.run}/work.sock",
                                  str(context.seed * 1000 + i), str(DOUBLE), str(LATE), str(LOST), str(MAX_LATE_MS)],
                                 stdout=subprocess.PIPE, text=True)
        try:
            run.apart = kills.Apart(run.factory, endpoint=front)
            run.apart.revive()
            kills.guarded(run)
        finally:
            proxy.send_signal(signal.SIGTERM)
            told = proxy.communicate(timeout=20)[0].strip()
        numbers = [int(word) for word in told.replace(",", "").split() if word.isdigit()]
        if len(numbers) != 4 or sum(numbers[1:]) == 0:
            raise Failed(f"the proxy did no harm: {told!r}")
        faults += sum(numbers[1:])
        context.say(f"run {i + 1}: {told}, same bytes")
    return faults, runs
