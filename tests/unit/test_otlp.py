# SPDX-License-Identifier: MIT
"""What `guestpv exporter --otlp` sends, as a server of OpenTelemetry's protocol receives it."""

import gzip
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_CUMULATIVE

from guestpv.agent.exporter import Exporter
from guestpv.agent.otlp import Otlp
from guestpv.errors import Error

SECOND = 1_000_000_000
PATIENCE_S = 60


class Receiver(ThreadingHTTPServer):
    """Takes metrics, and keeps them with the headers that they came with."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Request)
        self.taken = Queue()
        self.status = 200
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def next(self):
        """The next that comes: headers, resource, and metrics by name."""
        headers, request = self.taken.get(timeout=PATIENCE_S)
        (of_resource,) = request.resource_metrics
        (of_scope,) = of_resource.scope_metrics
        assert of_scope.scope.name == "guestpv"
        resource = {each.key: each.value.string_value for each in of_resource.resource.attributes}
        return headers, resource, {metric.name: metric for metric in of_scope.metrics}


class Request(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        if self.path != "/v1/metrics" or self.headers["Content-Type"] != "application/x-protobuf":
            return self.send_error(404)
        if self.server.status == 200:
            request = ExportMetricsServiceRequest.FromString(body)
            self.server.taken.put((dict(self.headers), request))
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(ExportMetricsServiceResponse().SerializeToString())
        return None

    def log_message(self, *_):
        pass


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver
        receiver.shutdown()


@pytest.fixture
def nobody():
    """A URL at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.fixture
def exporter(machine):
    exporter = Exporter(machine.path, pytest.fail, process=True)
    yield exporter
    exporter.thread.shutdown()


@pytest.fixture
def otlp(monkeypatch):
    """Sends to a URL; it takes no long time to give up."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    senders = []

    def begin(url):
        senders.append(Otlp(url))
        return senders[-1]

    yield begin
    for sender in senders:
        sender.close()


def values(points):
    """By their attributes."""
    return {
        tuple(
            (each.key, each.value.string_value or each.value.int_value) for each in point.attributes
        ): point.as_double
        for point in points
    }


def steal(cpu):
    return (("cpu.mode", "steal"), ("cpu.logical_number", cpu))


def test_what_is_stolen_is_what_the_conventions_call_it(receiver, otlp, exporter, machine):
    sender = otlp(receiver.url)
    machine.steal(1, SECOND // 2)
    machine.revise(2, 1)
    sender.send(exporter.collect())
    _, _, metrics = receiver.next()
    stolen = metrics["system.cpu.time"]
    assert stolen.unit == "s"
    assert stolen.sum.is_monotonic
    assert stolen.sum.aggregation_temporality == AGGREGATION_TEMPORALITY_CUMULATIVE
    first = values(stolen.sum.data_points)
    assert first == {steal(0): 0, steal(1): 0.5, steal(3): 0}, "of cpu2 it is not known"
    machine.steal(1, SECOND)
    sender.send(exporter.collect())
    again = receiver.next()[2]["system.cpu.time"].sum.data_points
    assert values(again)[steal(1)] == 1.5
    began = {point.start_time_unix_nano for point in (*stolen.sum.data_points, *again)}
    assert len(began) == 1
    assert began.pop() < stolen.sum.data_points[0].time_unix_nano < again[0].time_unix_nano


def test_all_else_is_named_as_for_prometheus(receiver, otlp, exporter):
    otlp(receiver.url).send(exporter.collect())
    _, _, metrics = receiver.next()
    as_prometheus_names_them = set()
    for name, metric in metrics.items():
        suffix = "_seconds" * (metric.unit == "s") + "_total" * metric.HasField("sum")
        as_prometheus_names_them.add(name.replace(".", "_") + suffix)
    as_prometheus_names_them.remove("system_cpu_time_seconds_total")
    served = {
        line.split()[2]
        for line in exporter.render(openmetrics=False).decode().splitlines()
        if line.startswith("# TYPE guestpv_")
    }
    assert as_prometheus_names_them == served - {"guestpv_stolen_seconds_total"}
    states = values(metrics["guestpv.vcpu_state"].gauge.data_points)
    assert states[("cpu.logical_number", 3), ("state", "online")] == 1
    assert not any(name.startswith("process") for name in metrics)


def test_who_it_is_and_what_the_environment_says_of_that(receiver, otlp, exporter, monkeypatch):
    otlp(receiver.url).send(exporter.collect())
    _, resource, _ = receiver.next()
    assert resource["service.name"] == "guestpv"
    assert resource["host.name"] == socket.gethostname()
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "host.name=vm7,deployment.environment.name=x")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=right")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    otlp(receiver.url + "/").send(exporter.collect())
    headers, resource, _ = receiver.next()
    assert resource["host.name"] == "vm7"
    assert resource["deployment.environment.name"] == "x"
    assert {name.lower(): value for name, value in headers.items()}["authorization"] == "right"


def test_as_many_as_there_can_be_arrive(receiver, otlp, machine_of):
    """The SDK's own instruments would leave out those after the 2000th."""
    exporter = Exporter(machine_of(4096).path, pytest.fail, process=False)
    otlp(receiver.url).send(exporter.collect())
    exporter.thread.shutdown()
    assert len(receiver.next()[2]["system.cpu.time"].sum.data_points) == 4096


def test_what_is_not_taken_is_an_error_that_says_why(receiver, otlp, exporter, nobody):
    receiver.status = 401
    with pytest.raises(Error, match="code: 401, reason: Unauthorized"):
        otlp(receiver.url).send(exporter.collect())
    with pytest.raises(Error, match="Connection refused"):
        otlp(nobody).send(exporter.collect())


@pytest.fixture
def endless():
    """A URL at which an answer begins that never ends: a byte at a time."""
    begun = []

    def answer(server):
        with suppress(OSError):
            client, _ = server.accept()
            begun.append(client)
            client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while True:
                client.sendall(b"x")
                time.sleep(0.1)

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, args=(server,), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", begun
        for client in begun:
            with suppress(OSError):  # the other side may have gone
                client.shutdown(socket.SHUT_RDWR)


def test_an_answer_that_never_ends_is_given_up(endless, otlp, exporter, monkeypatch):
    monkeypatch.setattr("guestpv.agent.otlp._LONGEST_S", 0.2)
    sender = otlp(endless[0])
    with pytest.raises(Error, match=r"not been answered in 0\.2 s"):
        sender.send(exporter.collect())
    with pytest.raises(Error, match="Those before have not been answered yet"):
        sender.send(exporter.collect())


def test_an_answer_that_never_ends_does_not_keep_the_exporter_from_ending(endless, machine):
    url, begun = endless
    process = subprocess.Popen(
        [sys.executable, "-m", "guestpv", "exporter", "--source", machine.path, "--otlp", url],
        stderr=subprocess.PIPE,
        text=True,
    )
    ends = time.monotonic() + PATIENCE_S
    while not begun and time.monotonic() < ends:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    try:
        _, said = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    assert (process.returncode, said) == (0, "")


def test_a_receiver_that_is_not_there_is_said_and_it_goes_on(nobody, machine):
    process = subprocess.Popen(
        [sys.executable, "-m", "guestpv", "exporter", "--source", machine.path, "--otlp", nobody],
        env=os.environ | {"OTEL_EXPORTER_OTLP_TIMEOUT": "2"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said = process.stderr.readline()
        assert said.startswith(f"guestpv: {nobody}/v1/metrics: no metrics sent")
        assert "Connection refused" in said
        assert process.poll() is None
    finally:
        process.send_signal(signal.SIGTERM)
    _, more = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, more) == (0, "")


def test_the_command_sends_and_serves_nothing(receiver, machine):
    command = [sys.executable, "-m", "guestpv", "exporter", "--source", machine.path]
    process = subprocess.Popen(
        [*command, "--otlp", receiver.url], stderr=subprocess.PIPE, text=True
    )
    try:
        assert "guestpv.up" in receiver.next()[2]
    finally:
        process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, said) == (0, "")


@pytest.mark.parametrize(
    "url", ["127.0.0.1:4318", "ftp://x", "http://", "http://x:99999", "http://x/?y", "http://a:b@x"]
)
def test_what_is_no_url_is_refused(guestpv, url):
    refused = guestpv("exporter", "--source", "procfs", "--otlp", url)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


def test_it_is_imported_only_if_it_is_wanted():
    script = "import sys, guestpv.agent.exporter; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_without_its_packages_it_says_which_to_install():
    script = "import sys; sys.modules['opentelemetry'] = None; import guestpv.cli as c; c.main()"
    command = [sys.executable, "-c", script, "exporter", "--otlp", "http://x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 9
    assert done.stderr.count("\n") == 1
    assert f"{sys.executable} -m pip install 'guestpv[otel]'" in done.stderr
