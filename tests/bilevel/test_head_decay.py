"""The example of a network's last layer does what it says."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_last_layer_gets_better_with_a_decay_that_is_learned():
    command = [sys.executable, "examples/head_decay.py", "--train-steps", "150"]
    command += ["--decay-steps", "3"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"test loss ([\d.]+)", done.stdout)]
    assert len(losses) == 4
    assert max(losses[1:]) < losses[0]
