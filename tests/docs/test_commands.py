"""Every command of the documentation exists, and takes the options that it is given."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from .pages import PAGES, ROOT, name, shell_lines

LINES = [(name(page), line) for page in PAGES for line in shell_lines(page.read_text())]


def _those(pattern: str) -> pytest.MarkDecorator:
    found = [(page, line) for page, line in LINES if re.search(pattern, line)]
    assert found, pattern
    return pytest.mark.parametrize(("page", "line"), found)


def _words(line: str) -> list[str]:
    """Return a command's words; dots stand for what depends on the reader."""
    line = re.sub(r"[()]", " ", line)  # of a shell's array
    line = re.split(r"\s(?:&&|\|\||\||>)\s", line)[0]
    return [word for word in shlex.split(line) if word != "..."]


@_those(r"^hdet |-m hdet( |$)")
def test_the_command_line_takes_the_options(page, line):
    pytest.importorskip("typer")
    from typer.main import get_command

    from hdet.commands import app

    words = _words(line)
    start = 1 if words[0] == "hdet" else words.index("hdet") + 1
    command, context = get_command(app), None
    words = words[start:]
    while hasattr(command, "commands") and words and words[0][0] != "-":
        assert words[0] in command.commands, f"{page}: {line}"  # pyright: ignore
        command, words = command.commands[words[0]], words[1:]  # pyright: ignore
    context = command.context_class(command, info_name="hdet")
    values, left, _ = command.make_parser(context).parse_args(words)
    assert not left, f"{page}: {line}"
    for parameter in command.params:
        value = values.get(parameter.name or "")
        # Files and folders are the reader's own.
        if parameter.type.name == "choice" and isinstance(value, str):
            parameter.type.convert(value, parameter, context)


@_those(r"^make ")
def test_make_has_the_target(page, line):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for word in _words(line)[1:] if "=" not in word}
    assert named <= targets, f"{page}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_are_named_are_there(page):
    for file in re.findall(r"examples/[\w/]+\.\w+", page.read_text()):
        assert (ROOT / file).exists(), file


@_those(r"^(\w+=\S+ )*torchrun |^(\S.*)?examples/\S+\.py")
def test_launcher_and_example_take_the_options(page, line):
    words = _words(line)
    if "torchrun" in words:
        # One more script, for a line that is only the launcher's part.
        given = get_args_parser().parse_args([*words[words.index("torchrun") + 1 :], "x.py"])
        words = [given.training_script, *given.training_script_args]
    for at, word in enumerate(words):
        if re.fullmatch(r"examples/\S+\.py", word):
            _options_exist(ROOT / word, words[at + 1 :])


def _options_exist(script: Path, given: list[str]) -> None:
    """Compare with the first arguments of the script's calls of `add_argument`."""
    calls = [n for n in ast.walk(ast.parse(script.read_text())) if isinstance(n, ast.Call)]
    names = {c.args[0].value for c in calls if c.args and isinstance(c.args[0], ast.Constant)}
    assert {word.split("=")[0] for word in given if word.startswith("--")} <= names
