# SPDX-License-Identifier: MIT
"""The web configuration of Prometheus' exporters (exporter-toolkit): TLS, users, headers.

https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md documents it.
What Python's TLS can't do as it is said there is refused, rather than done in another way.
"""

import hashlib
import hmac
import os
import re
import secrets
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bcrypt
import yaml

from guestpv.errors import ConfigError

_VERSIONS = {
    "TLS13": ssl.TLSVersion.TLSv1_3,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS10": ssl.TLSVersion.TLSv1,
}
_CLIENT_AUTH = {
    "": ssl.CERT_NONE,
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_HEADERS = (
    "Content-Security-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
)
_BCRYPT = re.compile(r"\$2[abxy]\$([0-9]{2})\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
_DEAREST = 15  # 2**15 rounds take seconds
_LARGEST = 1 << 20
_MOST_CACHED = 100


@dataclass(frozen=True, slots=True)
class WebConfig:
    """What the file says."""

    tls: ssl.SSLContext | None
    users: Mapping[str, bytes]
    """bcrypt hashes of passwords, by name; if there is none, nobody is asked."""
    headers: Mapping[str, str]
    files: tuple[Path, ...]
    """What it was read from."""
    doubt: str = ""
    """Why no client comes through, whomever it trusts, as when the certificate has expired."""


NO_WEB_CONFIG = WebConfig(None, {}, {}, ())


def read(path: Path) -> WebConfig:
    """Raises ConfigError, which names what is wrong."""
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"{path}: not read", error.strerror or str(error)) from error
    if len(content) > _LARGEST:
        raise ConfigError(f"{path}: not read", "It is larger than 1 MiB")
    try:
        config = yaml.load(content, _Loader)
    except Exception as error:  # of PyYAML: for !!bool x a KeyError, for !!int '' an IndexError
        raise _refused(path, f"It is not YAML ({' '.join(str(error).split())})") from error
    try:
        return _parse(config, path)
    except ValueError as error:
        raise _refused(path, str(error)) from error


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice: of two lists of users PyYAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for name, count in names.items():
            if count > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{name} is there twice")
        return super().construct_mapping(node, deep)


def _parse(config: Any, path: Path) -> WebConfig:
    parts = _table(config, "It", ("tls_server_config", "http_server_config", "basic_auth_users"))
    tls = _table(
        parts.get("tls_server_config"),
        "tls_server_config",
        (
            *("cert_file", "key_file", "client_ca_file", "client_auth_type"),
            *("min_version", "max_version", "prefer_server_cipher_suites"),
        ),
    )
    http = _table(parts.get("http_server_config"), "http_server_config", ("http2", "headers"))
    headers = _table(http.get("headers"), "headers", _HEADERS)
    _yes_or_no(http, "http2")
    for name, value in headers.items():
        if type(value) is int:  # as in X-XSS-Protection: 0
            headers[name] = str(value)
        elif not isinstance(value, str) or not value.isprintable():
            raise ValueError(f"Header {name} is no line of text")
    context, files = _tls(tls, path.parent) if tls else (None, ())
    doubt = _doubt(context, files[0]) if context else ""
    users = _users(parts.get("basic_auth_users"))
    return WebConfig(context, users, headers, (path, *files), doubt)


def _tls(tls: Mapping[str, Any], directory: Path) -> tuple[ssl.SSLContext, tuple[Path, ...]]:
    def named(key: str) -> Path | None:
        if tls.get(key) in (None, ""):
            return None
        if not isinstance(tls[key], str):
            raise ValueError(f"{key} is no path")
        return directory / str(tls[key])

    cert, key, ca = named("cert_file"), named("key_file"), named("client_ca_file")
    if not cert or not key:
        raise ValueError("tls_server_config has no cert_file or no key_file")
    verify = _one_of(tls, "client_auth_type", "", _CLIENT_AUTH)
    if ca and verify is ssl.CERT_NONE:
        raise ValueError("client_ca_file is of no use without a client_auth_type")
    if verify is not ssl.CERT_NONE and not ca:
        raise ValueError("client_auth_type needs a client_ca_file")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _one_of(tls, "min_version", "TLS12", _VERSIONS)
    context.maximum_version = _one_of(tls, "max_version", "TLS13", _VERSIONS)
    if context.minimum_version > context.maximum_version:
        raise ValueError("min_version is later than max_version")
    if not _yes_or_no(tls, "prefer_server_cipher_suites"):
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    _load(cert, cert.read_bytes)  # so that the one that is missing is named
    _load(key, lambda: context.load_cert_chain(cert, key, _no_password))
    if ca:
        _load(ca, lambda: context.load_verify_locations(ca))
        context.verify_mode = verify
    return context, tuple(file for file in (cert, key, ca) if file)


def _no_password() -> bytes:
    raise ValueError("key_file is encrypted, and nobody is there to type a password")


def _load(path: Path, load: Callable[[], object]) -> None:
    try:
        if path.stat().st_size > _LARGEST or not path.is_file():
            raise ValueError(f"{path} is no file of at most 1 MiB")
        load()
    except ssl.SSLError as error:
        raise ValueError(f"{path} does not serve ({_reason(error)})") from error
    except OSError as error:
        raise ValueError(f"{path} can't be read ({error.strerror})") from error


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def _doubt(context: ssl.SSLContext, cert: Path) -> str:
    """Why a client fails that trusts the certificate and nothing else: the first steps of a
    handshake, in memory."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.minimum_version, client.maximum_version = (
        context.minimum_version,
        context.maximum_version,
    )
    client.load_verify_locations(cert)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server)
    serving = context.wrap_bio(to_server, to_client, server_side=True)
    for side in asking, serving, asking:
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            pass  # it is the other one's turn
        except ssl.SSLCertVerificationError as error:
            return f"{cert}: clients will refuse it. It does not verify: {error.verify_message}."
        except ssl.SSLError as error:  # as of versions that OpenSSL has no ciphers for
            return f"{cert}: clients will fail. The handshake does: {_reason(error)}."
    return ""


def _users(users: Any) -> Mapping[str, bytes]:
    if users is None:
        return {}
    if not isinstance(users, dict):
        raise ValueError("basic_auth_users is no table of names and bcrypt hashes")
    for name, hashed in users.items():
        found = _BCRYPT.fullmatch(hashed) if isinstance(hashed, str) else None
        if not isinstance(name, str) or not name or ":" in name:
            raise ValueError(f"{name!r} can't be the name of a user")
        if not found or not 4 <= int(found[1]) <= _DEAREST:
            raise ValueError(f"User {name} has no bcrypt hash of cost 4 to {_DEAREST}")
    return {name: hashed.encode() for name, hashed in users.items()}


def _table(value: Any, name: str, known: tuple[str, ...]) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no table")
    for key in value:
        if key not in known:
            raise ValueError(f"{name} has {key!r}, and guestpv knows {', '.join(known)}")
    return value


def _yes_or_no(table: Mapping[str, Any], key: str) -> bool:
    value = table.get(key, True)
    if not isinstance(value, bool):
        raise ValueError(f"{key} is neither true nor false")
    return value


def _one_of(table: Mapping[str, Any], key: str, default: str, choices: Mapping[str, Any]) -> Any:
    value = table.get(key, default)
    if not isinstance(value, str) or value not in choices:
        named = ", ".join(filter(None, choices))
        raise ValueError(f"{key} is {value!r}, and guestpv can do {named}")
    return choices[value]


def _refused(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path}: not used", why, "correct it")


class WatchedWebConfig:
    """A web configuration that is read again when it, or a file that it names, was changed.

    If it then can't be used, the last one that could be is: a certificate and its key are rarely
    replaced in the same instant.
    """

    def __init__(self, path: Path | None, say: Callable[[str], None]) -> None:
        """Raises ConfigError."""
        self.is_current = True
        """Whether the last change could be used."""
        self._path = path
        self._say = say
        self._config = read(path) if path else NO_WEB_CONFIG
        self._say_doubt()
        self._seen = _states(self._config.files)

    def get(self) -> WebConfig:
        if self._path and (now := _states(self._config.files)) != self._seen:
            self._seen = now  # before it is read: what changes meanwhile is seen next time
            try:
                before, self._config = self._config, read(self._path)
                if self._config.files != before.files:
                    self._seen = _states(self._config.files)
                self.is_current = True
                self._say_doubt()
            except ConfigError as error:
                self.is_current = False
                self._say(f"{error} The one that was read before is used.")
        return self._config

    def _say_doubt(self) -> None:
        if self._config.doubt:
            self._say(self._config.doubt)


def _states(files: tuple[Path, ...]) -> list[tuple[int, ...] | None]:
    return [_state(file) for file in files]


def _state(file: Path) -> tuple[int, ...] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class Passwords:
    """Checks passwords, for one thread at a time. bcrypt is slow on purpose, so those that were
    right are remembered, as a keyed hash."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._right: set[bytes] = set()

    def is_known(self, users: Mapping[str, bytes], name: str, password: bytes) -> bool:
        """Whether it was found right before; takes no time."""
        hashed = users.get(name)
        return hashed is not None and self._digest(name, password, hashed) in self._right

    def check(self, users: Mapping[str, bytes], name: str, password: bytes) -> bool:
        """Takes as long for a user that there is not: there is one check of each cost."""
        hashed = users.get(name)
        by_cost = {other[4:6]: other for other in users.values()}
        if hashed:
            by_cost[hashed[4:6]] = hashed
        right = {each for each in by_cost.values() if bcrypt.checkpw(password[:72], each)}
        if hashed not in right:
            return False
        if len(self._right) >= _MOST_CACHED:
            self._right.clear()
        self._right.add(self._digest(name, password, hashed))
        return True

    def _digest(self, *parts: str | bytes) -> bytes:
        digest = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in parts:
            part = part.encode() if isinstance(part, str) else part
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.digest()
