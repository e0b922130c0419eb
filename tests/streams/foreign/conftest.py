"""Headwater in a namespace of its own on the shared broker, with the folds, the views and the API at work."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient

from streams.keys import admin_key
from streams.settings import Settings
from tests.conftest import free_base_port, skip_or_fail
from tests.streams.deployment import Deployment, settings_of
from tests.streams.instances import until

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def deployment(broker: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Two partitions of everything: what goes to another one than with us is seen, and it starts quickly."""
    one = Deployment(
        tmp_path_factory.mktemp("foreign"),
        {
            "HEADWATER_KAFKA": broker.bootstrap,
            "HEADWATER_NAMESPACE": "foreign",
            "HEADWATER_PARTITIONS": "2",
            "HEADWATER_PORT": str(free_base_port()),
        },
    )
    created = one.run("topics", "create")
    assert created.returncode == 0, created.stderr
    try:
        for process in ("folds", "views", "serve"):
            one.start("operator", process)
        until(lambda: all(one.running("operator", p) for p in ("folds", "views", "serve")), 60)
        yield one
    finally:
        one.stop()


@pytest.fixture(scope="session")
def settings(deployment: Deployment) -> Settings:
    """Its settings."""
    return settings_of(deployment, "operator")


@pytest.fixture(scope="session")
def registry_url(settings: Settings) -> str:
    """Where the schemas are, with the key as password."""
    return f"http://me:{admin_key(settings)}@{urlsplit(settings.api_url).netloc}/registry"


@pytest.fixture(scope="session")
def registry(registry_url: str) -> SchemaRegistryClient:
    """Confluent's client of it."""
    return SchemaRegistryClient({"url": registry_url})


@pytest.fixture
def http(settings: Settings) -> Iterator[httpx.Client]:
    """A client of the API."""
    headers = {"Authorization": f"Bearer {admin_key(settings)}"}
    with httpx.Client(base_url=settings.api_url, headers=headers, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def kafkajs(
    pytestconfig: pytest.Config, settings: Settings, registry_url: str
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs kafkajs.js with arguments; keywords go into its environment. Installed once for this folder."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not (node and npm):
        skip_or_fail("Node.js and npm are not installed")
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("kafkajs")
    wanted = (HERE / "package.json").read_text()
    installed = folder / "installed.json"
    if not installed.exists() or installed.read_text() != wanted:
        shutil.copy(HERE / "package.json", folder)
        command = [str(npm), "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"]
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            skip_or_fail(f"npm could not install kafkajs: {run.stderr[-500:]}")
        installed.write_text(wanted)

    def run_script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(node), str(HERE / "kafkajs.js"), *arguments],
            env={
                "PATH": "/usr/bin:/bin",
                "NODE_PATH": str(folder / "node_modules"),
                "BOOTSTRAP": settings.bootstrap,
                "REGISTRY": registry_url,
            }
            | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run_script


def events_of(http: httpx.Client, topic: str, component: str) -> list[dict[str, Any]]:
    """All events of a topic about one component."""
    found: list[dict[str, Any]] = []
    cursor: dict[str, Any] = {}
    while True:
        page = http.get("/v1/events", params={"topic": topic, "limit": 200, **cursor}).json()
        found += [event for event in page["items"] if event["data"].get("component") == component]
        if page["next"] is None:
            return found
        cursor = {"cursor": page["next"]}


def eventually(http: httpx.Client, path: str, **filters: Any) -> dict[str, Any]:
    """The answer, once there is one other than 404."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        answer = http.get(path, params=filters)
        if answer.status_code == 200:
            found.append(answer.json())
        return bool(found)

    until(there, 30)
    return found[0]
