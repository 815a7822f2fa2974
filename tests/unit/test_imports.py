# SPDX-License-Identifier: MIT
"""What is imported only when it is wanted: NumPy takes longer than all of guestpv."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import guestpv


def names_for_type_checkers():
    tree = ast.parse(Path(guestpv.__file__).read_text())
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    return {alias.name for node in imports if "guestpv" in node.module for alias in node.names}


def test_the_interpreter_has_the_names_that_type_checkers_have():
    assert names_for_type_checkers() == set(guestpv.__all__)
    assert set(guestpv.__all__) <= set(dir(guestpv))
    for name in guestpv.__all__:
        assert getattr(guestpv, name).__class__.__module__ != "typing"
    with pytest.raises(AttributeError, match="no attribute 'Clock'"):
        guestpv.Clock  # noqa: B018 - that is what raises


@pytest.mark.parametrize(
    "command",
    [["--version"], ["load", "--help"], ["run", "--", "true"], ["sim", "--help"]],
    ids=lambda words: words[0],
)
def test_commands_without_arrays_import_no_numpy(command):
    program = [sys.executable, "-X", "importtime", "-m", "guestpv", *command]
    imported = subprocess.run(program, capture_output=True, text=True).stderr
    assert "guestpv.cli" in imported
    assert "numpy" not in imported
