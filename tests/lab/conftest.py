# SPDX-License-Identifier: MIT
"""Tests that boot machines take a while: what the lab does meanwhile is shown, not captured."""

from collections.abc import Iterator

import pytest

from pvlab import progress


@pytest.fixture(scope="session", autouse=True)
def progress_is_shown(request: pytest.FixtureRequest) -> Iterator[None]:
    capture = request.config.pluginmanager.getplugin("capturemanager")
    say = progress.say

    def say_aloud(message: str) -> None:
        with capture.global_and_fixture_disabled():
            say(message)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "say", say_aloud)
        yield
