# SPDX-License-Identifier: MIT
"""What `guestpv jitter --json` writes: threads and histograms as oslat's, in nanoseconds."""

import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from guestpv.cli.records import bounds_record, instance_record, source_record
from guestpv.latency.jitter import PERCENTILES, Gap, Jitter, VcpuNoise, bucket_edges
from guestpv.source.mapped import MappedReader


def record(
    measured: Jitter, reader: MappedReader | None, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Of all that was found, with whatever else *about* the run is to be in it."""
    outlier, vcpus = measured.outlier(), measured.vcpus()
    offset_ns = time.time_ns() - time.monotonic_ns()
    return {
        "source": source_record(reader.source) if reader else None,
        "instance": instance_record(int(reader.header["instance"])) if reader else None,
        "kernel": platform.release(),
        "machine": platform.machine(),
        **about,
        "num_threads": len(vcpus),
        "thread": {
            str(number): _thread_record(vcpu, offset_ns) for number, vcpu in enumerate(vcpus)
        },
        "left_out": {str(number): why for number, why in measured.left_out.items()},
        "outlier": _gap_record(outlier, offset_ns) if outlier else None,
    }


def _thread_record(vcpu: VcpuNoise, offset_ns: int) -> dict[str, Any]:
    least, _ = bucket_edges()
    filled = vcpu.histogram.nonzero()[0]
    return {
        "cpu": vcpu.cpu,
        "duration_ns": vcpu.wall_ns,
        "min_ns": vcpu.shortest_ns,
        "max_ns": vcpu.longest_ns,
        "noise_ns": vcpu.noise_ns,
        "noise_percent": round(vcpu.noise_percent, 6),
        "gaps": vcpu.gaps,
        "stolen_ns": bounds_record(vcpu.stolen),
        "queue_ns": bounds_record(vcpu.queue),
        "other_ns": bounds_record(vcpu.other),
        "percentiles_ns": {str(percent): vcpu.percentile_ns(percent) for percent in PERCENTILES},
        "histogram_ns": {str(least[at]): int(vcpu.histogram[at]) for at in filled},
        **{
            name: getattr(vcpu, name)
            for name in (
                *("looks", "measuring_ns", "voluntary", "involuntary", "unknown", "restarts"),
                *("late", "late_ns", "short_stolen_ns", "left_ns"),
            )
        },
        "worst": [_gap_record(gap, offset_ns) for gap in vcpu.worst],
    }


def _gap_record(gap: Gap, offset_ns: int) -> dict[str, Any]:
    return {
        **{name: value for name, value in asdict(gap).items() if not isinstance(value, dict)},
        "time_s": round((gap.began_ns + offset_ns) / 1e9, 6),
        **{
            f"{part}_ns": bounds_record(getattr(gap, part)) for part in ("stolen", "queue", "other")
        },
    }
