"""Run nginx and Prometheus here with the files of deploy/, as docker-compose.yml does, in front of local replicas.

What differs from there is only where things listen: replicas on loopback addresses at one port, a name server of our
own instead of Docker's, and shorter intervals for Prometheus.
"""

import asyncio
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
START_S = 20.0
SCRAPE_S = 0.5
GATEWAY = "127.0.0.9"
"""Stands for the gateway of Docker's network: who connects from it counts as who X-Forwarded-For says."""

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="prometheus and promtool (package prometheus) are not installed",
)
needs_nginx = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx (package nginx-light) is not installed")


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as found:
        found.bind((host, 0))
        port: int = found.getsockname()[1]
        return port


class NameServer(asyncio.DatagramProtocol):
    """Answer each question for an IPv4 address with the present `addresses`, as Docker's does for a service."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: Sequence[str] = addresses
        self.port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # only in name not one, before Python 3.12
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        # A header of 12 bytes and one question; each answer points back to its name, and holds for no time.
        flags, counts = b"\x81\x80", struct.pack(">HHHH", 1, len(self.addresses), 0, 0)
        answers = [b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 0, 4) + socket.inet_aton(one) for one in self.addresses]
        self._transport.sendto(data[:2] + flags + counts + data[12:] + b"".join(answers), addr)


@asynccontextmanager
async def name_server(*addresses: str) -> AsyncIterator[NameServer]:
    """A name server for as long as the context lasts."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: NameServer(*addresses), local_addr=("127.0.0.1", 0))
    try:
        yield server
    finally:
        transport.close()


@asynccontextmanager
async def nginx(folder: Path, *, names: NameServer, replica_port: int) -> AsyncIterator[str]:
    """The address of an nginx with our configuration, in front of the replicas that the name server knows."""
    port = free_port()
    text = (DEPLOY / "nginx" / "nginx.conf").read_text()
    for here, there in (
        ("resolver 127.0.0.11 ", f"resolver 127.0.0.1:{names.port} "),
        ("listen 8000;", f"listen 127.0.0.1:{port};"),
        ("set $replicas api:8000;", f"set $replicas api:{replica_port};"),
        ("set_real_ip_from 172.16.0.0/12;", f"set_real_ip_from {GATEWAY};"),
        (" /tmp/", f" {folder}/"),
    ):
        assert here in text
        text = text.replace(here, there)
    path = folder / "nginx.conf"
    path.write_text(text)
    # Its workers would else leave root behind, and could not enter the test's folder.
    globally = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
    with (folder / "nginx.log").open("wb") as log:
        process = subprocess.Popen(["nginx", "-e", "stderr", "-c", path, "-g", globally], stderr=log)
    async with _running(process, f"http://127.0.0.1:{port}", "/metrics", log=folder / "nginx.log") as address:
        yield address


@asynccontextmanager
async def prometheus(folder: Path, *targets: str) -> AsyncIterator[str]:
    """The address of a Prometheus with our configuration and rules, which scrapes these targets."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(config["global"], f"{round(SCRAPE_S * 1000)}ms")
    config["rule_files"] = [str(RULES)]
    (job,) = config["scrape_configs"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": list(targets)}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'prometheus'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    async with _running(process, f"http://127.0.0.1:{port}", "/-/ready", log=folder / "prometheus.log") as address:
        yield address


@asynccontextmanager
async def _running(process: "subprocess.Popen[bytes]", address: str, path: str, *, log: Path) -> AsyncIterator[str]:
    try:
        async with asyncio.timeout(START_S), httpx2.AsyncClient(trust_env=False) as client:
            while True:
                assert process.poll() is None, log.read_text()
                try:
                    if (await client.get(address + path)).status_code != 503:
                        break
                except httpx2.TransportError:
                    pass
                await asyncio.sleep(0.05)
        yield address
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, START_S)
