# SPDX-License-Identifier: MIT
"""The lab's cache: what is in it is whole."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pvlab import cache, prepare, process
from pvlab.errors import LabError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GUESTPV_CACHE", str(tmp_path))


def entries(directory):
    return sorted(path.name for path in directory.iterdir() if not path.name.startswith("."))


def write(directory: Path) -> None:
    (directory / "part").write_text("whole")


def test_is_built_once_for_the_same_inputs(tmp_path):
    first = cache.artefact("thing", ["a"], write)
    assert cache.artefact("thing", ["a"], pytest.fail) == first
    assert cache.artefact("thing", ["b"], write) != first
    assert len(entries(tmp_path)) == 2


def test_a_changed_file_is_another_input(tmp_path):
    source = tmp_path / "source"
    source.write_text("one")
    before = cache.digest(source)
    source.write_text("two")
    assert cache.digest(source) != before


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def fail(directory):
        write(directory)
        process.run("sh", "-c", "echo why it failed; exit 3")

    with pytest.raises(LabError, match=r"ended with 3[^$]*why it failed"):
        cache.artefact("thing", [], fail)
    assert entries(tmp_path) == []


def test_what_a_killed_build_left_is_not_taken_for_whole(tmp_path):
    program = (
        "import sys, time; from pvlab.cache import artefact\n"
        "def build(d): (d / 'part').write_text('ha'); print(flush=True); time.sleep(60)\n"
        "artefact('thing', [], build)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as killed:
        assert killed.stdout
        killed.stdout.readline()
        killed.kill()
    assert entries(tmp_path) != []
    complete = cache.artefact("thing", [], write)
    assert (complete / "part").read_text() == "whole"
    assert entries(tmp_path) == [complete.name]


def test_two_that_want_the_same_build_it_once(tmp_path):
    builds = []

    def slowly(directory):
        builds.append(directory)
        time.sleep(0.5)
        write(directory)

    threads = [threading.Thread(target=cache.artefact, args=("t", [], slowly)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(builds) == 1


def test_when_one_build_fails_none_is_begun_by_those_that_wait(monkeypatch):
    begun = threading.Event()

    def fail():
        begun.wait()
        raise LabError("why it failed")

    def slowly(directory):
        begun.set()
        process.run("sleep", "20")

    monkeypatch.setattr(prepare, "root_image", fail)
    monkeypatch.setattr(prepare, "_prepare_kernel", lambda _: cache.artefact("t", [], slowly))
    began = time.monotonic()
    with pytest.raises(LabError, match="why it failed"):
        prepare.prepare("one", "two")
    assert time.monotonic() - began < 10


def test_what_was_not_used_for_long_goes_when_its_successor_comes(tmp_path, monkeypatch):
    old = cache.artefact("thing", ["old"], write)
    new = cache.artefact("thing", ["new"], write)
    assert entries(tmp_path) == sorted((old.name, new.name))
    monkeypatch.setattr(cache, "UNUSED_AFTER_S", -1)
    newest = cache.artefact("thing", ["newest"], write)
    assert newest.exists()
    assert not old.exists()
    assert not new.exists()
