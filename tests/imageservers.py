"""Servers that have images, for tests: nginx, and one of S3 (moto)."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
CONFIG = """
daemon off; master_process off; pid {here}/pid; error_log {here}/errors;
events {{ worker_connections 64; }}
http {{
    access_log {here}/access; client_body_temp_path {here}/t1; proxy_temp_path {here}/t2; fastcgi_temp_path {here}/t3;
    uwsgi_temp_path {here}/t4; scgi_temp_path {here}/t5;
    server {{
        listen 127.0.0.1:{port}; root {root};
        location /whole/ {{ max_ranges 0; alias {root}/; }}
    }}
}}
"""
S3_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


class ImageServer:
    """A server of ours, at one port for all its lives."""

    def __init__(self, command: list[str], port: int) -> None:
        self.command, self.port = command, port
        self.process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while time.monotonic() < until and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise AssertionError("the server does not start")

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def stop(self) -> None:
        """It answers no more, and its connections stay."""
        self.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.signal(signal.SIGCONT)


class Nginx(ImageServer):
    """nginx, which serves a directory."""

    def __init__(self, here: Path, root: Path) -> None:
        pytest.importorskip("aiohttp")
        pytest.importorskip("fsspec")
        if NGINX is None:
            pytest.skip("nginx is not installed")
        self.here, port = here, port_that_is_free()
        config = here / "nginx.conf"
        config.write_text(CONFIG.format(here=here, root=root, port=port))
        super().__init__([NGINX, "-c", str(config), "-e", str(here / "errors")], port)
        self.start()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    def requests(self) -> int:
        return (self.here / "access").read_bytes().count(b"\n")


class S3(ImageServer):
    """A server of S3 with a bucket."""

    def __init__(self) -> None:
        pytest.importorskip("s3fs")
        pytest.importorskip("moto.server")
        port = port_that_is_free()
        super().__init__([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port)
        self.start()
        self._put("images", b"")

    @property
    def environment(self) -> dict[str, str]:
        return {**S3_KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}"}

    def put(self, path: Path) -> str:
        """Have a file in the bucket; its URL."""
        self._put(f"images/{path.name}", path.read_bytes())
        return f"s3://images/{path.name}"

    def _put(self, what: str, data: bytes) -> None:
        kind = {"Content-Type": "binary/octet-stream"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{what}", data, kind, method="PUT")
        urllib.request.urlopen(request, timeout=20).close()


def port_that_is_free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def set_environment(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setitem(os.environ, name, value)
