# SPDX-License-Identifier: MIT
"""A Prometheus scrapes a guest to which things happen: guestpv's exporter beside node_exporter.

With `--pictures tools` it draws the README's pictures anew.
"""

import time

import numpy as np
from scraping import WINDOW_S, Line, Story, draw, keep_busy, scraped, switch
from structures import ipa

from pvlab import Lab

STOLEN = "guestpv_stolen_seconds_total"
STEAL = 'node_cpu_seconds_total{mode="steal"}'
RELOAD = """
parameters=/sys/module/guestpv/parameters
offset=$(cat $parameters/adopt_offset) build=$(cat $parameters/adopt_build)
until rmmod guestpv 2>/dev/null; do :; done
modprobe guestpv check_ms=100 "adopt_offset=$offset" "adopt_build=\\"$build\\""
"""
BLUE, ORANGE = "#0072b2", "#d55e00"


def lose_count(lab: Lab, vcpu: int) -> None:
    """It begins anew without a word, as a host that is at fault lets it."""
    lab.qmp("stop")
    lab.write_guest_memory(ipa(vcpu), bytes(16))
    lab.qmp("cont")


def compared(integral_s: float, taken_s: float) -> str:
    off = 100 * (integral_s / taken_s - 1)
    return f"integral of rate() {integral_s:.3f} s, host {taken_s:.3f} s ({off:+.2f} %)"


def test_the_rate_is_what_the_host_took_whatever_happens(tmp_path, pictures):
    # Before Linux 6.8 a hotplug sets a CPU's idle time back, too, by which node_exporter knows it.
    machine = Lab(kernel="stock-6.12", vcpus=2, load=True)
    with machine as lab, scraped(lab, tmp_path) as prometheus:
        # Prometheus takes it that a counter which is near 0 has begun there.
        busy = [keep_busy(lab, cpu) for cpu in (0, 1)]
        lab.steal(40)
        lab.run(["sleep", "3"])
        lab.steal(0)
        lab.run(["kill", "-STOP", *busy])

        time.sleep(WINDOW_S)
        story = Story(lab)
        story.go_on(2)
        lab.steal(40)
        lab.run(["kill", "-CONT", *busy])
        story.event("contention")
        story.go_on(20)
        story.await_pause(prometheus)
        story.event("migration")
        story.move()
        story.go_on(20)
        story.await_pause(prometheus)
        story.event("module reloaded")
        lab.run(["sh", "-c", RELOAD]).check_returncode()
        story.go_on(20)
        story.await_pause(prometheus)  # a scrape without the CPU lets node_exporter begin anew
        began_s = time.monotonic()
        switch(lab, 1, online=False)
        story.look()
        switch(lab, 1, online=True)
        print(f"cpu1 was away for {time.monotonic() - began_s:.1f} s")
        lab.run(["taskset", "-pc", "1", busy[1]]).check_returncode()
        story.event("cpu1 off and on")
        story.go_on(30)
        story.event("cpu0's count lost")
        lose_count(lab, 0)
        story.go_on(30)
        lab.steal(0)
        lab.run(["kill", *busy])
        story.event("quiet")
        story.go_on(WINDOW_S + 2)

        told = story.rate(prometheus, STOLEN)
        steal = story.rate(prometheus, STEAL)
        (restarts,) = prometheus.query("sum(guestpv_count_restarts_total)")
        (instances,) = prometheus.query("guestpv_source_instances_total")
        unknown = prometheus.query("guestpv_stolen_unknown_seconds_total")

    colors = {0: BLUE, 1: ORANGE}
    host = [
        Line(f"host's account, vcpu{cpu}", story.share_taken(cpu), "0.3", style)
        for cpu, style in ((0, ":"), (1, "--"))
    ]
    draw(
        pictures / "scraped.svg",
        story,
        {
            f"guestpv exporter: rate({STOLEN}[{WINDOW_S}s])": [
                *(Line(f"cpu{cpu}", told[cpu], color) for cpu, color in colors.items()),
                *host,
            ],
            f"node_exporter: rate({STEAL}[{WINDOW_S}s])": [
                *(Line(f"cpu{cpu}", steal[cpu], color) for cpu, color in colors.items()),
                *host,
            ],
        },
    )
    print("unknown, in s:", {one.labels["cpu"]: [*one.values.values()] for one in unknown})
    print("instances and restarts:", *instances.values.values(), *restarts.values.values())
    integrals_s = [float(np.nansum(told[cpu])) for cpu in (0, 1)]
    for cpu, integral_s in enumerate(integrals_s):
        off = 100 * (told[cpu] - story.share_taken(cpu))
        print(f"cpu{cpu}: rate() off by {np.nanmin(off):+.1f} to {np.nanmax(off):+.1f} points")
        print(f"cpu{cpu}:", compared(integral_s, story.taken_s[cpu]))
    print("both:", compared(sum(integrals_s), sum(story.taken_s)))

    for cpu in (0, 1):
        assert not np.isnan(told[cpu]).any()  # no hole
        assert np.abs(told[cpu] - story.share_taken(cpu)).max() < 0.15  # neither spike nor dip
    assert abs(sum(integrals_s) / sum(story.taken_s) - 1) < 0.01

    contended = slice(story.after("cpu1 off and on").start, story.after("quiet").start - WINDOW_S)
    assert story.share_taken(1)[contended].min() > 0.3
    assert np.nanmax(steal[1][contended]) == 0
    assert np.nanmax(steal[1][: contended.start - WINDOW_S]) > 0.3  # before, it was seen


def test_with_nohz_full_node_exporter_is_wrong_and_guestpv_is_not(tmp_path, pictures):
    cpu = 2
    with (
        Lab(kernel="stock-6.1", vcpus=4, append="nohz_full=1-3", load=True) as lab,
        scraped(lab, tmp_path) as prometheus,
    ):
        story = Story(lab)
        story.look()
        busy = keep_busy(lab, cpu)
        lab.steal(30)
        story.event("contention")
        story.go_on(WINDOW_S + 2)
        switch(lab, cpu, online=False)
        switch(lab, cpu, online=True)
        story.event("cpu2 offline and online")
        lab.run(["taskset", "-pc", str(cpu), busy]).check_returncode()
        story.go_on(WINDOW_S + 12)

        told = story.rate(prometheus, STOLEN)[cpu]
        modes = {
            mode: story.rate(prometheus, f'node_cpu_seconds_total{{mode="{mode}"}}')[cpu]
            for mode in ("steal", "user", "nice")
        }
    host = Line("host's account", story.share_taken(cpu), "0.3", ":")
    draw(
        pictures / "scraped-nohz.svg",
        story,
        {
            f"guestpv exporter: rate({STOLEN}[{WINDOW_S}s]), cpu{cpu}": [
                Line("stolen", told, BLUE),
                host,
            ],
            f"node_exporter: rate(node_cpu_seconds_total[{WINDOW_S}s]), cpu{cpu}": [
                Line('mode="steal"', modes["steal"], BLUE),
                Line('mode="user" and "nice"', modes["user"] + modes["nice"], ORANGE),
                host,
            ],
        },
    )
    # Until the tick of the CPU has stopped again it is accounted for.
    after = story.after("cpu2 offline and online", later_s=4)
    for name, shares in ("guestpv", told), ("node_exporter", modes["steal"]):
        print(name, "after the hotplug, in %:", np.round(100 * shares[after], 1).tolist())
    print("host, in %:", np.round(100 * host.shares[after], 1).tolist())

    assert np.abs(told[after] - host.shares[after]).max() < 0.15
    assert host.shares[after].min() > 0.3
    assert host.shares[after].max() < 0.8
    # Flat at zero, or 100 % and more, when it counts at once what it had left out.
    assert np.abs(modes["steal"][after] - host.shares[after]).min() > 0.25
