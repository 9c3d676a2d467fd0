"""The command line before any command: versions, help and completion, without the imports that take seconds."""

import importlib
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from noprop_dist import elsewhere

NOPROP = "import sys; sys.argv[0] = 'noprop-dist'; from noprop_dist.cli.app import main; main()"


def start(*arguments, **environment):
    """Output of the command line, and the modules that it imported."""
    command = [sys.executable, "-X", "importtime", "-c", NOPROP, *arguments]
    defaults = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "COLUMNS": "100"}
    environment = {**os.environ, **defaults, **environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.returncode == 0, done.stderr
    return done.stdout, imported


def test_version_names_what_a_result_depends_on():
    output, _ = start("--version")
    versions = [f"{name} {version(name)}" for name in ("noprop-dist", "torch", "ray")]
    assert output == ", ".join([*versions, f"Python {platform.python_version()}"]) + "\n"


def test_help_lists_every_command_and_few_options():
    output, _ = start("--help")
    commands = ("train", "resume", "reproduce", "pack", "plan", "evaluate", "predict", "inspect", "merge", "report")
    assert all(f" {command} " in output for command in (*commands, "compare", "bench", "job"))
    assert {word for word in output.split() if word.startswith("--")} == {
        *("--version", "--install-completion", "--show-completion", "--help")
    }


def test_a_shell_can_complete_commands_and_options():
    script, _ = start("--show-completion", "bash")
    assert "complete" in script
    asked = {"_NOPROP_DIST_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    assert start(**asked, COMP_WORDS="noprop-dist re")[0].split() == ["resume", "reproduce", "report"]
    asked["COMP_CWORD"] = "2"
    assert "--or-resume" in start(**asked, COMP_WORDS="noprop-dist train --")[0].split()


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["train", "--help"], ["--show-completion", "bash"]])
def test_neither_torch_nor_ray_is_imported_before_a_command_needs_it(arguments):
    _, imported = start(*arguments)
    assert "typer" in imported
    assert not {"torch", "ray", "sklearn", "matplotlib"} & imported


@pytest.mark.slow
def test_predictions_wait_for_no_plots_and_no_ray():
    code = "import sys, noprop_dist.cli.predict; print(*{'matplotlib', 'ray', 'sklearn'} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.split() == []


def test_what_lies_in_the_working_directory_changes_no_library(tmp_path):
    (tmp_path / "matplotlibrc").write_text("axes.prop_cycle: cycler('nonsense', print('was run'))\ntext.usetex: True\n")
    code = "import os, noprop_dist.cli, matplotlib; print(matplotlib.rcParams['text.usetex'], os.getcwd())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == (f"False {tmp_path}\n", "")


def test_torch_is_imported_in_another_working_directory(tmp_path, monkeypatch):
    (tmp_path / "heavy_library.py").write_text("import os\nFOLDER = os.getcwd()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    assert "torch" in elsewhere.LIBRARIES
    monkeypatch.setattr(elsewhere, "LIBRARIES", ("heavy_library",))
    elsewhere.import_elsewhere()
    assert importlib.import_module("heavy_library").FOLDER == "/"
    assert Path.cwd() == tmp_path


def test_a_command_says_at_once_on_a_terminal_that_its_libraries_are_loading():
    ours, theirs = os.openpty()
    environment, said = {**os.environ, "TERM": "xterm"}, b""
    command = [sys.executable, "-c", NOPROP, "inspect", "nowhere"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment) as run:
        while b"loading" not in said:
            said += os.read(ours, 1000)
        assert run.poll() is None
        while b"holds no run" not in said:
            said += os.read(ours, 1000)
    os.close(theirs)
    os.close(ours)
    assert run.returncode == 2


@pytest.mark.slow
def test_a_command_says_nothing_of_loading_in_a_pipe():
    done = subprocess.run([sys.executable, "-c", NOPROP, "inspect", "x"], capture_output=True, text=True, check=False)
    assert done.stderr.startswith("noprop-dist: ")


IMPORTS = """
import gc, sys
from noprop_dist.cli.imports import without_collection
with without_collection():
    print(gc.isenabled())
    kept = [[] for _ in range(10_000)]
print(gc.isenabled(), gc.get_freeze_count() > len(kept))
gc.unfreeze()
sys.modules["torch"] = sys
with without_collection():
    print(gc.isenabled())
print(gc.isenabled(), gc.get_freeze_count())
"""


def test_what_a_command_imports_is_collected_neither_meanwhile_nor_later():
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["False", "True True", "True", "True 0"], "nothing is done where torch is there"
