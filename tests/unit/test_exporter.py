# SPDX-License-Identifier: MIT
"""guestpv exporter, asked by an HTTP client over a page image that changes."""

import asyncio
import gc
import os
import re
import resource
import signal
import socket
import ssl
import subprocess
import sys
import time
import tracemalloc
import urllib.error
import urllib.request
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta

import bcrypt
import pytest
import trustme
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from guestpv.agent.exporter import Exporter
from guestpv.agent.textfile import Textfile
from guestpv.agent.webconfig import Passwords
from guestpv.errors import Error
from guestpv.page.image import write_image

SECOND = 1_000_000_000
PATIENCE_S = 60
EXPORTER = (sys.executable, "-m", "guestpv", "exporter")


def fails(*arguments, before=()):
    """What becomes of an exporter that can't begin."""
    return subprocess.run(
        [*before, *EXPORTER, *arguments], capture_output=True, text=True, timeout=PATIENCE_S
    )


def stolen(cpu):
    return ("guestpv_stolen_seconds_total", ("cpu", str(cpu)))


def test_what_is_stolen_is_a_counter_from_zero(serve, machine):
    served = serve(machine.path)
    assert [served.metrics()[stolen(cpu)] for cpu in range(4)] == [0, 0, 0, 0]
    machine.steal(1, SECOND // 2)
    assert served.metrics()[stolen(1)] == 0.5
    machine.steal(1, SECOND // 4)
    after = served.metrics()
    assert after[stolen(1)] == 0.75
    assert after[stolen(0)] == 0


def test_it_does_not_fall_over_a_restart(serve, machine):
    served = serve(machine.path)
    machine.steal(2, SECOND)
    assert served.metrics()[stolen(2)] == 1
    machine.restart(2)
    after = served.metrics()
    assert after[stolen(2)] >= 1
    assert after["guestpv_count_restarts_total", ("cpu", "2")] == 1
    assert after["guestpv_count_restarts_total", ("cpu", "1")] == 0
    assert after["guestpv_stolen_unknown_seconds_total", ("cpu", "2")] > 0
    assert after["guestpv_stolen_unknown_seconds_total", ("cpu", "1")] == 0


def test_what_is_not_known_has_no_series(serve, machine):
    served = serve(machine.path)
    machine.revise(0, 7)
    after = served.metrics()
    assert stolen(0) not in after
    assert after["guestpv_structure_revision", ("cpu", "0")] == 7
    assert stolen(1) in after


def test_the_source_goes_and_another_comes(serve, tmp_path):
    path = tmp_path / "page"
    write_image(path, [SECOND, SECOND])
    served = serve(path)
    assert served.metrics()["guestpv_up",] == 1
    path.unlink()
    gone = served.metrics()
    assert gone["guestpv_up",] == 0
    assert stolen(0) not in gone
    assert gone["guestpv_read_errors_total", ("kind", "no_source")] >= 1
    write_image(path, [0, 0])
    back = served.metrics()
    assert back["guestpv_up",] == 1
    assert back["guestpv_source_instances_total",] == 2
    assert back[stolen(0)] == 0, "what was lost between is not made up"


def test_both_formats_are_what_their_parsers_take(serve, machine):
    served = serve(machine.path)
    assert served.get().headers["Content-Type"].startswith("text/plain; version=0.0.4")
    accepting = served.get(Accept="application/openmetrics-text; version=1.0.0")
    assert accepting.headers["Content-Type"].startswith("application/openmetrics-text")
    families = {family.name: family for family in openmetrics(accepting.read().decode())}
    assert families["guestpv_stolen_seconds"].type == "counter"
    assert families["guestpv_source"].type == "info"
    for family in families.values():
        assert family.documentation
        for sample in family.samples:
            assert set(sample.labels) <= {
                *("cpu", "state", "kind", "path", "simulated", "instance_id", "version", "python")
            }


def test_clients_that_only_sit_there_keep_nobody_out(serve, machine):
    served = serve(machine.path)
    sitting = []
    try:
        for number in range(300):  # more than it has room for
            client = socket.create_connection(("127.0.0.1", served.port), PATIENCE_S)
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n"[: number % 30])
            sitting.append(client)
        assert served.metrics()["guestpv_up",] == 1
    finally:
        for client in sitting:
            client.close()


def test_a_hundred_scrape_at_once(serve, machine):
    served = serve(machine.path)
    with ThreadPoolExecutor(100) as scrapers:
        scraped = list(scrapers.map(lambda _: served.metrics(), range(200)))
    assert all(stolen(3) in metrics for metrics in scraped)


def test_a_thousand_half_open_connections(serve, machine):
    served = serve(machine.path)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, before[1]), before[1]))
    try:
        with ExitStack() as half_open:
            for _ in range(1000):
                client = socket.create_connection(("127.0.0.1", served.port), PATIENCE_S)
                half_open.enter_context(client)
            metrics = served.metrics()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert metrics["guestpv_up",] == 1
    assert metrics["process_open_fds",] < 300, "they are bounded"


def test_a_byte_a_second_keeps_nobody_waiting(serve, machine):
    served = serve(machine.path)
    with socket.create_connection(("127.0.0.1", served.port), PATIENCE_S) as slow:
        for byte in b"GET":
            slow.sendall(bytes([byte]))
            assert served.metrics()["guestpv_up",] == 1
            time.sleep(1)


def test_a_request_of_10_mb_takes_no_memory(serve, machine):
    served = serve(machine.path)
    before = served.metrics()["process_resident_memory_bytes",]
    with (
        socket.create_connection(("127.0.0.1", served.port), PATIENCE_S) as client,
        suppress(ConnectionError),  # it need not be read to its end
    ):
        client.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000_000)
    assert served.metrics()["process_resident_memory_bytes",] - before < 5_000_000


def test_memory_stays_what_it_is_over_many_scrapes(machine):
    """As traced: what each scrape leaves behind, were it 100 bytes, would be seen."""
    exporter = Exporter(machine.path, lambda _: None, process=False)

    def scrape(times):
        for number in range(times):
            exporter.render(openmetrics=bool(number % 2))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = scrape(500)
        assert scrape(1500) - before < 1500 * 100
    finally:
        tracemalloc.stop()
        exporter.thread.shutdown()


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01 this is no HTTP\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 100_000,
        b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_requests_that_are_none_are_refused(serve, machine, sent):
    served = serve(machine.path)
    with socket.create_connection(("127.0.0.1", served.port), PATIENCE_S) as client:
        client.sendall(sent)
        assert re.match(rb"HTTP/1\.[01] 4\d\d ", client.recv(100))
    assert served.metrics()["guestpv_up",] == 1


def test_cgroups_that_can_not_be_counted_are_said(serve, machine):
    """Here no module is loaded, which is no reason not to serve the rest."""
    served = serve(machine.path, "--cgroup", "*")
    assert "The module is not loaded" in served.said("no cgroup is counted so far: ")
    assert served.metrics()[stolen(0)] == 0


def test_a_port_in_use_is_said(serve, machine):
    served = serve(machine.path)
    second = fails("--source", machine.path, "--listen", f"127.0.0.1:{served.port}")
    assert second.returncode == 8
    assert "Another program does" in second.stderr
    assert second.stderr.count("\n") == 1


def test_two_exporters_of_one_source_do_not_disturb_each_other(serve, machine):
    first, second = serve(machine.path), serve(machine.path)
    machine.steal(1, SECOND)
    assert first.metrics()[stolen(1)] == second.metrics()[stolen(1)] == 1


def test_it_needs_no_netlink(serve, machine, forbid_netlink):
    served = serve(machine.path, preexec_fn=forbid_netlink)
    machine.steal(1, SECOND)
    assert served.metrics()[stolen(1)] == 1


def basic(name, password):
    return "Basic " + b64encode(f"{name}:{password}".encode()).decode()


@pytest.fixture
def secured(tmp_path):
    """A web configuration with TLS and a user, and its authority."""
    authority = trustme.CA()

    def certify(expired=False):
        ended = datetime.now(UTC) - timedelta(days=1) if expired else None
        certificate = authority.issue_cert("127.0.0.1", not_after=ended)
        certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")

    certify()
    hashed = bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()
    config = tmp_path / "web.yml"
    config.write_text(
        "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n"
        f"basic_auth_users:\n  prometheus: {hashed}\n"
    )
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return config, context, certify


def test_tls_and_passwords(serve, machine, secured):
    config, context, _ = secured
    served = serve(machine.path, "--web-config", config)
    assert served.url.startswith("https:")
    right = served.get(context=context, Authorization=basic("prometheus", "right"))
    assert b"guestpv_up 1.0" in right.read()
    said = set()
    for headers in (
        {},
        {"Authorization": basic("prometheus", "wrong")},
        {"Authorization": basic("nobody", "right")},
        {"Authorization": "Basic !"},
        {"Authorization": "Bearer right"},
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            served.get(context=context, **headers)
        said.add((refused.value.code, refused.value.read()))
    assert said == {(401, b"Unauthorized\n")}, "which of them was wrong is not said"
    assert served.log().count("\n") == 1, "what clients do is no news"


def test_a_certificate_is_replaced_while_it_runs(serve, machine, secured, tmp_path):
    config, context, certify = secured
    served = serve(machine.path, "--web-config", config)
    asked = {"context": context, "Authorization": basic("prometheus", "right")}

    def shown():
        with (
            socket.create_connection(("127.0.0.1", served.port), PATIENCE_S) as connected,
            context.wrap_socket(connected, server_hostname="127.0.0.1") as client,
        ):
            return client.getpeercert()["serialNumber"]

    before = shown()
    (tmp_path / "cert.pem").write_text("no certificate")
    assert served.metrics(**asked)["guestpv_web_config_current",] == 0
    assert shown() == before
    certify()
    assert served.metrics(**asked)["guestpv_web_config_current",] == 1
    assert shown() != before


def test_an_expired_certificate_is_said_and_serves_whoever_does_not_mind(serve, machine, secured):
    """Rather than nobody: it is the clients who decide whom to trust."""
    config, context, certify = secured
    certify(expired=True)
    served = serve(machine.path, "--web-config", config)
    assert "certificate has expired" in served.said("cert.pem: clients will refuse it")
    password = {"Authorization": basic("prometheus", "right")}
    with pytest.raises(urllib.error.URLError, match="certificate has expired"):
        served.get(context=context, **password)
    assert served.get(context=ssl._create_unverified_context(), **password).status == 200
    certify()
    assert served.metrics(context=context, **password)["guestpv_web_config_current",] == 1


def test_each_wrong_password_takes_a_check_of_each_cost(monkeypatch):
    """So none is quicker than the others, also where there is no such user."""
    costs, check = [], bcrypt.checkpw
    monkeypatch.setattr(bcrypt, "checkpw", lambda *of: costs.append(of[1][:7]) or check(*of))
    users = {
        name: bcrypt.hashpw(b"right", bcrypt.gensalt(cost))
        for name, cost in {"prometheus": 4, "other": 4, "dear": 5}.items()
    }
    passwords = Passwords()
    wrong = [
        ("prometheus", b"wrong"),
        ("prometheus", b""),
        ("prometheus", b"right\0"),
        ("prometheus", b"\xff" * 1000),
        ("dear", b"wrong"),
        ("nobody", b"right"),
        ("", b""),
    ]
    for name, password in wrong:
        assert not passwords.is_known(users, name, password)
        assert not passwords.check(users, name, password)
    assert costs == [b"$2b$04$", b"$2b$05$"] * len(wrong)
    assert passwords.check(users, "prometheus", b"right")
    assert passwords.check(users, "dear", b"right")
    assert passwords.is_known(users, "prometheus", b"right")
    assert not any(passwords.is_known(users, *each) for each in [*wrong, ("other", b"right")])


def test_half_a_handshake_blocks_nobody(serve, machine, secured):
    config, context, _ = secured
    served = serve(machine.path, "--web-config", config)
    with socket.create_connection(("127.0.0.1", served.port), PATIENCE_S) as half:
        half.sendall(b"\x16\x03\x01")
        right = served.get(context=context, Authorization=basic("prometheus", "right"))
        assert right.status == 200


def test_clients_that_go_before_their_answer_end_nothing(serve, machine, secured):
    """The second write to one that is gone is a SIGPIPE, which ends a filter."""
    config, context, _ = secured
    served = serve(machine.path, "--web-config", config)
    for _ in range(10):
        with (
            socket.create_connection(("127.0.0.1", served.port), PATIENCE_S) as connected,
            context.wrap_socket(connected, server_hostname="127.0.0.1") as client,
        ):
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            client.setblocking(False)
            with suppress(ssl.SSLWantReadError):  # says that it goes, and waits for nothing
                client.unwrap()
    asked = {"context": context, "Authorization": basic("prometheus", "right")}
    assert served.metrics(**asked)["guestpv_up",] == 1
    assert served.log().count("\n") == 1


@pytest.mark.parametrize("log", ["full", "read by nobody"])
def test_a_log_that_takes_nothing_is_no_reason_to_end(tmp_path, log):
    readable, writable = os.pipe()
    os.close(readable)
    metrics = tmp_path / "guestpv.prom"
    with open(writable, "w") as unread, open("/dev/full", "w") as full:
        process = subprocess.Popen(
            [*EXPORTER, "--source", tmp_path / "nothing", "--textfile", tmp_path],
            stderr=full if log == "full" else unread,
        )
    try:
        ends = time.monotonic() + PATIENCE_S
        while not metrics.exists() and process.poll() is None and time.monotonic() < ends:
            time.sleep(0.02)
        assert "guestpv_up 0.0\n" in metrics.read_text()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_textfile_is_whole_and_is_taken_away(tmp_path, machine, number):
    directory = tmp_path / "textfiles"
    directory.mkdir()
    process = subprocess.Popen([*EXPORTER, "--source", machine.path, "--textfile", directory])
    try:
        ends = time.monotonic() + PATIENCE_S
        while not (directory / "guestpv.prom").exists() and time.monotonic() < ends:
            time.sleep(0.02)
        names = {family.name for family in plain((directory / "guestpv.prom").read_text())}
        assert "guestpv_stolen_seconds" in names
        assert not any(name.startswith("process_") for name in names), "node_exporter has them"
        assert os.listdir(directory) == ["guestpv.prom"]
    finally:
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 0
    assert os.listdir(directory) == [], "counters that stand still say that nothing is stolen"


def test_what_fails_again_and_again_is_said_once(machine, monkeypatch):
    monkeypatch.setattr("guestpv.agent.exporter.GIVE_S", 0)
    exporter = Exporter(machine.path, pytest.fail, process=False)
    said, fails = [], [True, True, False, True, True]

    def take(_):
        if fails.pop(0):
            raise Error("not taken", "no room")

    try:
        with pytest.raises(IndexError):  # the end
            asyncio.run(exporter.give(exporter.collect, take, said.append))
    finally:
        exporter.thread.shutdown()
    assert said == ["not taken. no room."] * 2


def test_no_two_write_one_textfile(tmp_path, machine):
    with Textfile(tmp_path):
        second = fails("--source", machine.path, "--textfile", tmp_path)
    assert (second.returncode, second.stderr.count("\n")) == (8, 1)
    assert "Another exporter writes there" in second.stderr


def test_a_textfile_directory_that_may_not_be_written_to(tmp_path, machine, as_others):
    tmp_path.chmod(0o500)
    refused = fails("--source", machine.path, "--textfile", tmp_path, before=as_others)
    assert (refused.returncode, refused.stderr.count("\n")) == (4, 1)
    assert "no metrics can be written" in refused.stderr


@pytest.fixture
def full(tmp_path):
    """A directory with metrics of an exporter that was killed, and no room for more."""
    directory = tmp_path / "full"
    directory.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k", "none", directory])
    if mounted.returncode:
        pytest.skip("only root can mount a file system, where it may")
    try:
        (directory / "guestpv.prom").write_text("the old ones\n")
        with suppress(OSError), (directory / "filler").open("wb", buffering=0) as filler:
            while filler.write(b"x"):
                pass
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)  # the exporter may be there


def test_where_a_textfile_has_no_room_the_old_one_stays_whole(serve, machine, full):
    served = serve(machine.path, "--textfile", full)
    served.said("guestpv.prom: not written. No space left on device: it is tried again.")
    assert {path.name for path in full.iterdir()} == {"guestpv.prom", "filler"}
    assert (full / "guestpv.prom").read_text() == "the old ones\n"
    assert served.metrics()["guestpv_up",] == 1


def test_a_textfile_that_can_not_be_written_stays_what_it_was(tmp_path):
    with Textfile(tmp_path) as textfile:
        textfile.write(b"the old one\n")
        # As of a file system that fills up: more than may be written.
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            with pytest.raises(Error, match="File too large"):
                textfile.write(b"x" * 100_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
        assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"the old one\n"]


@pytest.mark.parametrize("kind", ["pipe", "link", "file"])
def test_what_has_the_name_of_a_textfile_in_the_making(tmp_path, kind):
    """An exporter that runs as root in a directory of another user neither waits nor follows."""
    directory, victim, new = (tmp_path / name for name in ("dir", "victim", "dir/guestpv.prom.new"))
    directory.mkdir()
    victim.write_text("mine")
    match kind:
        case "pipe":
            os.mkfifo(new)
        case "link":
            new.symlink_to(victim)
        case "file":
            new.write_text("of an exporter that was killed")
    with Textfile(directory) as textfile:
        textfile.write(b"metrics")
        assert {path: path.read_bytes() for path in directory.iterdir()} == {
            directory / "guestpv.prom": b"metrics"
        }
    assert victim.read_text() == "mine"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("prefer_server_cipher_suites: 'no'", "prefer_server_cipher_suites is neither true nor"),
        ("client_ca_file: false", "client_ca_file is no path"),
        ("min_version: TLS13\n  max_version: TLS12", "min_version is later than max_version"),
    ],
)
def test_what_does_not_serve_beside_a_certificate_that_does(machine, secured, written, said):
    config, _, _ = secured
    config.write_text(
        f"tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n  {written}\n"
    )
    refused = fails("--source", machine.path, "--web-config", config)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert said in refused.stderr


def test_a_version_that_nobody_can_use_is_said(serve, machine, secured):
    """OpenSSL has it, and no signature for it that it deems safe."""
    config, _, _ = secured
    versions = "  min_version: TLS10\n  max_version: TLS10\n"
    config.write_text(config.read_text().replace("basic", f"{versions}basic"))
    served = serve(machine.path, "--web-config", config)
    assert "The handshake does: no " in served.said("cert.pem: clients will fail.")


def test_a_header_may_be_a_number(serve, machine, tmp_path):
    """As YAML has it: the exporter-toolkit takes it, too."""
    (tmp_path / "web.yml").write_text("http_server_config: {headers: {X-XSS-Protection: 0}}")
    served = serve(machine.path, "--web-config", tmp_path / "web.yml")
    assert served.get().headers["X-XSS-Protection"] == "0"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("- 1", "It is no table"),
        ("a: [", "not YAML"),
        ("!!bool x", "not YAML"),
        ("!!int ''", "not YAML"),
        ("!!timestamp x", "not YAML"),
        ("basic_auth_users: {a: b}\nbasic_auth_users:", "basic_auth_users is there twice"),
        ("tls_server_config: {cert_file: a.pem, key_file: b.pem}", "a.pem can't be read"),
        ("tls_server_config: {cert_file: /dev/zero, key_file: b.pem}", "/dev/zero is no file"),
        ("http_server_config: {http2: 2}", "not used. http2 is neither true nor false"),
        ("tls_server_config: {cert_file: a.pem}", "no key_file"),
        ("tls_server_config: {cipher_suites: []}", "'cipher_suites'"),
        ("basic_auth_users: {prometheus: plain}", "no bcrypt hash"),
        ("basic_auth_users: {prometheus: $2b$31$" + "a" * 53 + "}", "no bcrypt hash of cost 4"),
        ("basic_auth_users: {prometheus: $2b$10$" + "a" * 53 + "}", "no bcrypt hash of cost 4"),
    ],
)
def test_a_web_configuration_that_does_not_serve_is_refused(tmp_path, machine, written, said):
    """Rather than served without what it asks for."""
    config = tmp_path / "web.yml"
    config.write_text(written)
    refused = fails("--source", machine.path, "--web-config", config)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert said in refused.stderr
