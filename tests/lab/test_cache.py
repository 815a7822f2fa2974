# SPDX-License-Identifier: MIT
"""The lab's cache: what is in it is whole."""

import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
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
    assert len(entries(tmp_path)) == 2  # this process may still use the first


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


def test_who_waits_for_a_build_does_not_wait_for_the_end_of_who_built_it(tmp_path):
    program = (
        "import time; from pvlab.cache import artefact\n"
        "def build(d): print(flush=True); time.sleep(0.5)\n"
        "artefact('thing', [], build); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as builder:
        assert builder.stdout
        builder.stdout.readline()
        began = time.monotonic()
        cache.artefact("thing", [], pytest.fail)
        assert time.monotonic() - began < 20
        builder.kill()


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
        prepare.prepare("one", "two", hosts=[])
    assert time.monotonic() - began < 10


def end_of_process():
    """What this process used, nobody uses any more."""
    while cache._held:
        cache._held.popitem()[1].close()


def test_what_is_replaced_goes(tmp_path):
    cache.artefact("thing", ["old"], write)
    end_of_process()
    new = cache.artefact("thing", ["new"], write)
    assert entries(tmp_path) == [new.name]


def test_what_serves_another_purpose_stays(tmp_path):
    one = cache.artefact("thing", ["one"], write, what="one")
    end_of_process()
    other = cache.artefact("thing", ["other"], write, what="other")
    assert entries(tmp_path) == sorted((one.name, other.name))


def test_what_another_checkout_uses_stays_until_that_is_gone(tmp_path, monkeypatch):
    elsewhere = tmp_path / "venv-elsewhere"
    elsewhere.mkdir()
    own = cache.CHECKOUT
    monkeypatch.setattr(cache, "CHECKOUT", elsewhere)
    theirs = cache.artefact("thing", ["theirs"], write)
    monkeypatch.setattr(cache, "CHECKOUT", own)
    assert cache.artefact("thing", ["theirs"], pytest.fail) == theirs
    end_of_process()
    ours = cache.artefact("thing", ["ours"], write)
    assert theirs.exists()
    elsewhere.rmdir()
    end_of_process()
    stale = [entry.path for entry in cache.kept() if entry.is_stale]
    assert stale == [theirs]
    assert all(cache.Kept(path).remove() for path in stale)
    assert entries(tmp_path) == [ours.name]


def test_threads_that_note_who_uses_it_do_not_get_in_each_others_way(tmp_path, monkeypatch):
    """As those that build for each kernel do, of what another checkout has made."""
    other, own = tmp_path.parent, cache.CHECKOUT
    monkeypatch.setattr(cache, "CHECKOUT", other)
    kept = cache.Kept(cache.artefact("thing", ["a"], write))
    monkeypatch.setattr(cache, "CHECKOUT", own)

    def note(_):
        for _ in range(200):
            kept.take()
            kept.give_up()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(note, range(4)))
    assert kept.checkouts == [str(other)]


def test_what_another_process_uses_is_not_removed(tmp_path):
    program = (
        "import sys, time; from pvlab.cache import artefact\n"
        "artefact('thing', ['old'], lambda d: None); print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as user:
        assert user.stdout
        user.stdout.readline()
        cache.artefact("thing", ["new"], write)
        assert len(entries(tmp_path)) == 2
        user.kill()
    end_of_process()
    newest = cache.artefact("thing", ["newest"], write)
    assert entries(tmp_path) == [newest.name]


def test_what_is_bound_to_its_place_is_made_anew_in_a_copied_cache(tmp_path, monkeypatch):
    made = cache.artefact("thing", [], write, is_bound=True)
    free = cache.artefact("free", [], write)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in made, free:
        shutil.copytree(path, copy / path.name)
    monkeypatch.setenv("GUESTPV_CACHE", str(copy))
    places = []
    assert cache.artefact("free", [], pytest.fail) == copy / free.name
    assert cache.artefact("thing", [], places.append, is_bound=True) == copy / made.name
    assert len(places) == 1
    assert cache.artefact("thing", [], pytest.fail, is_bound=True) == copy / made.name
