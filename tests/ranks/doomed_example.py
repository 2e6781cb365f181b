"""examples/ddp.py, with a death in it: one process, or its whole node, at a step.

    torchrun ... doomed_example.py FILE MARKER RANK STEP process|node

It happens once: the marker is there from then on.
"""

import os
import runpy
import signal
import sys
from pathlib import Path

example = Path(__file__).parents[2] / "examples" / "ddp.py"
main = runpy.run_path(str(example))["main"]
names = main.__globals__
file, marker, rank, step, what = sys.argv[1:]
undisturbed = names["batch"]


def batch(now, me):
    if (now, me) == (int(step), int(rank)) and not Path(marker).exists():
        Path(marker).touch()
        if what == "node":
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return undisturbed(now, me)


names["batch"] = batch
main(Path(file))
# A thread of gloo's that still holds a tensor while the interpreter goes down aborts the
# process, and torchrun would start all of them once more (pytorch#179291).
sys.stdout.flush()
os._exit(0)
