"""Who has no certificate gets nothing from a run on a real Slurm."""

from __future__ import annotations

import http.client
import signal
import socket
import stat
import urllib.request
from pathlib import Path

import psutil
import pytest
from distributed import Client as DaskClient
from distributed import Security
from slurmdev import Client, Slurm
from smallrun import Sky

pytestmark = pytest.mark.slurm


def test_who_has_no_certificate_gets_nothing(slurm: Slurm, sky: Sky, tmp_path: Path) -> None:
    """No port of client, scheduler or workers answers without one; dashboards are on loopback."""
    ours = outer_address()
    profile, name = slurm.profile(tmp_path, interface=ours[0])
    out = tmp_path / "run"
    client = Client(slurm, sky.command(out, "--cluster", str(profile), rows=1), out, name)
    try:
        client.published(1)
        mine = {client.process.pid}
        mine |= {p.pid for p in psutil.Process(client.process.pid).children(recursive=True)}
        for job in slurm.jobs(name, "RUNNING"):
            mine |= {p.pid for p in slurm.processes(job)}
            mine |= {p.ppid() for p in slurm.processes(job)}
        listening = {
            (c.laddr.ip, c.laddr.port)
            for c in psutil.net_connections("tcp")
            if c.status == psutil.CONN_LISTEN and c.pid in mine
        }
        assert len(listening) >= 8  # scheduler and dashboard; three workers, nannies and pages
        pages = {port for ip, port in listening if is_page(ip, port)}
        assert len(pages) >= 4
        certificates = next((out / ".cluster").glob("tls-*"))
        assert stat.S_IMODE(certificates.stat().st_mode) == 0o700
        for file in certificates.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        for ip, port in listening:
            reached = ours[1] if ip in ("0.0.0.0", "::") else ip.removeprefix("::ffff:")
            assert not speaks_dask(reached, port)
        if ours[0] != "lo":
            assert {ip for ip, _ in listening} > {"127.0.0.1"}
            for port in pages:
                with pytest.raises(OSError, match="refused"):
                    socket.create_connection((ours[1], port), timeout=3)
    finally:
        client.process.send_signal(signal.SIGTERM)
        told = client.process.communicate(timeout=120)[0]
    assert client.process.returncode in (0, 75), told
    assert not certificates.exists()


def outer_address() -> tuple[str, str]:
    """An interface of this machine that others can reach, and its address; loopback without one."""
    up = psutil.net_if_stats()
    for name, addresses in psutil.net_if_addrs().items():
        for found in addresses:
            outer = found.family == socket.AF_INET and not found.address.startswith("127.")
            if outer and up[name].isup:
                return name, found.address
    return "lo", "127.0.0.1"


def is_page(ip: str, port: int) -> bool:
    """Whether a port speaks HTTP to anybody."""
    try:
        with urllib.request.urlopen(f"http://{ip}:{port}/health", timeout=3) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False


def speaks_dask(ip: str, port: int) -> bool:
    """Whether a port lets a client in that has no certificate, or one of its own making."""
    for protocol, security in (("tcp", None), ("tls", Security.temporary())):
        try:
            address = f"{protocol}://{ip}:{port}"
            with DaskClient(address, security=security, timeout=3, set_as_default=False):
                return True
        except (OSError, TimeoutError, ValueError):
            continue
    return False
