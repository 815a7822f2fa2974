# SPDX-License-Identifier: MIT
"""The extension builds without a warning wherever it may be built, and does nothing undefined."""

import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
(EXTENSION,) = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"][
    "ext-modules"
]
FLAGS = [
    *EXTENSION["extra-compile-args"],
    "-fPIC",
    "-Werror",
    *(f"-I{directory}" for directory in EXTENSION["include-dirs"]),
    f"-I{sysconfig.get_path('include')}",
    *(f"-D{name}={value}" for name, value in EXTENSION["define-macros"]),
]
GCC_14 = (
    *("declaration-missing-parameter-type", "implicit-function-declaration", "implicit-int"),
    *("incompatible-pointer-types", "int-conversion", "return-mismatch"),
)
"""What was a warning before GCC 14, and is an error since."""

READERS_TESTS = (
    *("test_mapped", "test_bad_source", "test_closing", "test_reading", "test_vouched"),
    "test_observation",
)


def compiles(compiler: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [compiler, *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_it_builds_without_a_warning(compiler: str, tmp_path: Path) -> None:
    known = [
        f"-Werror={name}"
        for name in GCC_14
        if not compiles(
            *(compiler, "-Werror", f"-W{name}", "-fsyntax-only", "-x", "c", "/dev/null")
        ).returncode
    ]
    assert f"-Werror={GCC_14[3]}" in known
    output = tmp_path / "_native.so"
    built = compiles(compiler, *FLAGS, *known, "-shared", *EXTENSION["sources"], "-o", str(output))
    assert not built.returncode, built.stderr


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, with an extension that stops at whatever is undefined."""
    place = tmp_path_factory.mktemp("sanitized")
    package = place / "guestpv"
    package.mkdir()
    for entry in (CHECKOUT / "guestpv").iterdir():
        if entry.suffix != ".so":
            (package / entry.name).symlink_to(entry)
    sanitizers = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    output = str(package / "_native.abi3.so")
    built = compiles("gcc", *FLAGS, *sanitizers, "-shared", *EXTENSION["sources"], "-o", output)
    assert not built.returncode, built.stderr
    return place


def test_the_readers_tests_under_asan_and_ubsan(sanitized: Path) -> None:
    libraries = [
        compiles("gcc", f"-print-file-name={name}").stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = os.environ | {
        "PYTHONPATH": str(sanitized),
        "PYTHONSAFEPATH": "1",  # or the checkout's own extension would come first
        "LD_PRELOAD": " ".join(libraries),
        "PYTHONMALLOC": "malloc",
        # SIGBUS is the package's own affair; Python itself leaks at exit.
        "ASAN_OPTIONS": "detect_leaks=0:handle_sigbus=0",
    }
    tests = [f"tests/unit/{name}.py" for name in READERS_TESTS]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stdout[-5000:] + done.stderr[-5000:]
