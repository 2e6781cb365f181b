"""The page on launchers: its files can be read, and its report is that of its own example."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rich")

PAGE = (Path(__file__).parents[1] / "docs" / "guides" / "nodes.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_every_kubernetes_object_can_be_read():
    found = [one for block in blocks("yaml") for one in yaml.safe_load_all(block)]
    assert [one["kind"] for one in found] == ["TrainJob", "Service", "Job"]
    _, service, job = found
    # The name that `--master-addr` needs: pod 0 of the job, below the service.
    assert service["spec"]["selector"]["job-name"] == job["metadata"]["name"]
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    (command,) = pod["containers"][0]["args"]
    assert f"--master-addr {job['metadata']['name']}-0.{pod['subdomain']} " in command
    assert f"--nnodes {job['spec']['completions']} " in command
    assert "\n" not in command


def test_every_shell_script_can_be_read():
    scripts = blocks("bash")
    assert len(scripts) == 2
    for script in scripts:
        done = subprocess.run(["bash", "-n"], input=script, text=True, check=False)
        assert done.returncode == 0, script


def test_the_report_is_that_of_the_example(tmp_path):
    (code,), (told,) = blocks("python"), re.findall(r"hdet doctor.*?\n(ok.*?)```", PAGE, re.S)
    (tmp_path / "train.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "hdet", "doctor", "train:make"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    # Alone there is no wire; what the run is stays word for word.
    same = ("optimizer", "scheduler", "explored", "search", "trials", "sync       every")
    for line in told.splitlines():
        if line[7:].startswith(same):
            assert line in done.stdout.splitlines()
    assert told.splitlines()[-1] == done.stdout.splitlines()[-1] == "Nothing is wrong."
