# SPDX-License-Identifier: MIT
"""guestpv exporter --otlp, heard by a receiver of OTLP over HTTP that knows nothing of guestpv."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra 'otel' is not installed")
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE
from opentelemetry.semconv._incubating.attributes.cpu_attributes import (
    CPU_LOGICAL_NUMBER,
    CPU_MODE,
    CpuModeValues,
)
from opentelemetry.semconv._incubating.metrics.system_metrics import SYSTEM_CPU_TIME

from guestpv.agent.otlp import COUNTERS, GAUGES

SECOND = 1_000_000_000
PATIENCE_S = 60
STOLEN = (SYSTEM_CPU_TIME, (CPU_LOGICAL_NUMBER, 1), (CPU_MODE, CpuModeValues.STEAL.value))


class Received:
    """What was sent at once."""

    def __init__(self, request, headers):
        (of_resource,) = request.resource_metrics
        (of_scope,) = of_resource.scope_metrics
        self.headers = headers
        self.resource = attributes_of(of_resource.resource)
        self.metrics = {metric.name: metric for metric in of_scope.metrics}
        self.points = {
            (metric.name, *sorted(attributes_of(point).items())): getattr(
                point, point.WhichOneof("value")
            )
            for metric in of_scope.metrics
            for point in getattr(metric, metric.WhichOneof("data")).data_points
        }


def attributes_of(message):
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in message.attributes
    }


class Receiver:
    """Takes metrics, decoded by the protocol's own classes."""

    def __init__(self, port=0):
        self.status = 200
        self._received = received = queue.Queue()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                assert self.path == "/v1/metrics"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = ExportMetricsServiceRequest.FromString(body)
                if receiver.status == 200:
                    received.put(Received(request, self.headers))
                self.send_response(receiver.status)
                answer = ExportMetricsServiceResponse().SerializeToString()
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        self.endpoint = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def next(self):
        return self._received.get(timeout=PATIENCE_S)

    def when(self, wanted):
        """The first of which that is true."""
        ends = time.monotonic() + PATIENCE_S
        while not wanted(received := self.next()):
            assert time.monotonic() < ends
        return received

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


def every(seconds, **variables):
    """The environment of an exporter that is to send so often."""
    return {**os.environ, "OTEL_METRIC_EXPORT_INTERVAL": f"{seconds * 1000:.0f}", **variables}


@pytest.fixture
def sending(tmp_path):
    """An exporter that sends five times a second, unless told otherwise."""
    processes = []

    def begin(source, endpoint, *arguments, **variables):
        log = (tmp_path / f"log{len(processes)}").open("w+")
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "guestpv", "exporter"),
                *("--source", source, "--otlp", endpoint, *arguments),
            ],
            env=every(0.2, **variables),
            stderr=log,
        )
        process.log = lambda: (tmp_path / log.name).read_text()
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def said(process, text):
    ends = time.monotonic() + PATIENCE_S
    while text not in process.log():
        assert process.poll() is None, process.log()
        assert time.monotonic() < ends, process.log()
        time.sleep(0.02)


def test_what_is_stolen_is_cpu_time_of_the_mode_steal(sending, receiver, machine):
    sending(machine.path, receiver.endpoint)
    assert receiver.next().points[STOLEN] == 0
    machine.steal(1, SECOND // 2)
    received = receiver.when(lambda received: received.points[STOLEN])
    assert received.points[STOLEN] == 0.5
    steal = received.metrics[SYSTEM_CPU_TIME]
    assert steal.unit == "s"
    assert steal.sum.is_monotonic
    assert steal.sum.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    assert len(steal.sum.data_points) == 4


def test_whose_it_is(sending, receiver, machine):
    sending(machine.path, receiver.endpoint)
    resource = receiver.next().resource
    assert resource["service.name"] == "guestpv"
    assert resource["host.name"] == os.uname().nodename
    assert len(resource["service.instance.id"]) == 36
    sending(
        *(machine.path, receiver.endpoint),
        OTEL_SERVICE_NAME="another",
        OTEL_RESOURCE_ATTRIBUTES="host.name=vm-17,service.instance.id=17",
        OTEL_EXPORTER_OTLP_HEADERS="authorization=Basic%20eDp5",
    )
    other = receiver.when(lambda received: received.resource["service.name"] == "another")
    assert other.resource["host.name"] == "vm-17"
    assert other.resource["service.instance.id"] == "17"
    assert other.headers["authorization"] == "Basic eDp5"


def test_what_has_no_convention_is_guestpvs_own(sending, receiver, machine):
    sending(machine.path, receiver.endpoint)
    received = receiver.when(lambda received: "guestpv.cpu.steal_step_max" in received.metrics)
    assert received.metrics.keys() == COUNTERS.keys() | GAUGES.keys()
    for name, metric in received.metrics.items():
        assert name == SYSTEM_CPU_TIME or name.startswith("guestpv.")
        assert (metric.WhichOneof("data") == "sum") == (name in COUNTERS)
        assert metric.description
        assert not metric.HasField("sum") or metric.sum.is_monotonic
    (info,) = received.metrics["guestpv.source.info"].gauge.data_points
    assert attributes_of(info) == {
        "guestpv.source.kind": "image",
        "guestpv.source.path": machine.path,
        "guestpv.source.simulated": False,
    }


def test_what_becomes_of_the_source_is_told(sending, receiver, machine):
    sending(machine.path, receiver.endpoint, "--interval=0.05")
    restarts = ("guestpv.cpu.count_restarts", (CPU_LOGICAL_NUMBER, 1))
    unknown = ("guestpv.cpu.unknown_time", (CPU_LOGICAL_NUMBER, 1))
    receiver.next()
    machine.restart(1)
    assert receiver.when(lambda received: received.points[restarts]).points[unknown] > 0
    machine.revise(1, 7)
    receiver.when(lambda received: STOLEN not in received.points)
    machine.revise(1, 0)
    receiver.when(lambda received: STOLEN in received.points)
    os.rename(machine.path, f"{machine.path}.away")
    gone = receiver.when(lambda received: not received.points["guestpv.source.up",])
    assert gone.points["guestpv.source.errors", ("error.type", "no_source")] > 0
    assert SYSTEM_CPU_TIME not in gone.metrics
    os.rename(f"{machine.path}.away", machine.path)
    receiver.when(lambda received: STOLEN in received.points)


def test_none_of_4096_vcpus_is_lost(sending, receiver, machine_of):
    sending(machine_of(4096).path, receiver.endpoint, OTEL_METRIC_EXPORT_INTERVAL="3000")
    steal = receiver.next().metrics[SYSTEM_CPU_TIME].sum.data_points
    numbers = [attributes_of(point)[CPU_LOGICAL_NUMBER] for point in steal]
    assert sorted(numbers) == list(range(4096))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_the_end_it_sends_what_was_not_sent_yet(serve, receiver, machine, number):
    served = serve(machine.path, "--otlp", receiver.endpoint, env=every(3600))
    assert served.metrics()["guestpv_up",] == 1
    machine.steal(1, SECOND)
    served.process.send_signal(number)
    assert served.process.wait(PATIENCE_S) == 0
    assert receiver.next().points[STOLEN] == 1
    assert served.log().count("\n") == 2, "where it listens, and where it sends"


def test_an_endpoint_that_is_down_is_said_once_and_tried_again(sending, receiver, machine):
    receiver.close()
    process = sending(machine.path, receiver.endpoint, OTEL_EXPORTER_OTLP_TIMEOUT="0.5")
    said(process, "metrics not sent. Connection refused: it is tried again.")
    machine.steal(1, SECOND)
    time.sleep(1)
    back = Receiver(receiver.port)
    try:
        assert back.when(lambda received: received.points[STOLEN]).points[STOLEN] == 1
        said(process, "metrics are sent again")
    finally:
        back.close()
    assert process.log().count("not sent") == 1
    assert "Traceback" not in process.log()


def test_an_endpoint_that_refuses_is_said_with_its_answer(sending, receiver, machine):
    receiver.status = 401
    process = sending(machine.path, receiver.endpoint)
    said(process, "metrics not sent. The answer is 401: it is tried again.")
    receiver.status = 200
    assert STOLEN in receiver.next().points
    said(process, "metrics are sent again")


def test_an_endpoint_that_is_down_holds_up_no_end(serve, receiver, machine):
    receiver.close()
    served = serve(machine.path, "--otlp", receiver.endpoint, env=every(3600))
    assert served.metrics()["guestpv_up",] == 1
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(PATIENCE_S) == 0
    assert "the last metrics not sent. Connection refused." in served.log()
    assert served.log().count("\n") == 3


def test_prometheus_is_served_beside_it_if_asked_for(serve, receiver, machine):
    served = serve(machine.path, "--otlp", receiver.endpoint, env=every(0.2))
    machine.steal(1, SECOND)
    assert served.metrics()["guestpv_stolen_seconds_total", ("cpu", "1")] == 1
    receiver.when(lambda received: received.points[STOLEN] == 1)


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("collector:4318", "no endpoint"),
        ("ftp://collector", "no endpoint"),
        ("http://collector:65536", "no endpoint"),
        ("http://collector/?a=b", "no endpoint"),
        ("http://user:password@collector", "OTEL_EXPORTER_OTLP_HEADERS"),
    ],
)
def test_endpoints_that_are_none(guestpv, endpoint, words):
    done = guestpv("exporter", "--otlp", endpoint)
    assert done.returncode == 2
    assert words in done.stderr
    assert "password" not in done.stderr.replace("read a password", "")


def test_a_variable_of_the_environment_that_can_not_be(sending, receiver, machine):
    process = sending(machine.path, receiver.endpoint, OTEL_METRIC_EXPORT_INTERVAL="-1")
    assert process.wait(PATIENCE_S) == 2
    assert process.log().count("\n") == 1
    assert "A variable OTEL_" in process.log()


@pytest.mark.parametrize("command", [["exporter", "--help"], ["--version"]])
def test_only_who_wants_it_imports_it(command):
    program = [sys.executable, "-X", "importtime", "-m", "guestpv", *command]
    imported = subprocess.run(program, capture_output=True, text=True).stderr
    assert "guestpv.cli" in imported
    assert "opentelemetry" not in imported
    assert "requests" not in imported


def test_without_its_packages_it_says_what_to_install(machine):
    program = (
        "import sys; sys.modules['opentelemetry.metrics'] = None\n"
        "from guestpv.cli import main; main()"
    )
    arguments = ["exporter", "--source", machine.path, "--otlp", "http://127.0.0.1:1"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 9
    assert "pip install 'guestpv[otel]'" in done.stderr
    assert done.stderr.count("\n") == 1
