"""The process `serve` as it is deployed: in a process of its own, on a real broker."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from streams.settings import Settings
from tests.streams.gateway.serving import free_port


@contextmanager
def door(settings: Settings, **environment: str) -> Iterator[str]:
    """`headwater serve` with these settings on another port; gives its address."""
    moved = settings.model_copy(update={"port": free_port()})
    known = {
        "HEADWATER_DATA": str(moved.data),
        "HEADWATER_PORT": str(moved.port),
        "HEADWATER_KAFKA": moved.bootstrap,
        "HEADWATER_NAMESPACE": moved.namespace,
        "HEADWATER_LOG_LEVEL": "WARNING",
    }
    moved.data.mkdir(parents=True, exist_ok=True)
    with (moved.data / "serve.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "streams", "serve"],
            env=os.environ | known | environment,
            stdout=log,
            stderr=log,
        )
    try:
        _wait(moved.api_url, process)
        yield moved.api_url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while not _answers(url):
        assert process.poll() is None, "serve ended"
        assert time.monotonic() < end, "serve did not start"
        time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.TransportError:
        return False
