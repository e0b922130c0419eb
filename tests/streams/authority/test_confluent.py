"""The client of a schema registry, against Apicurio, our own door, and what is no registry."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from pathlib import Path

import httpx
import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from schemas.errors import ConfigurationError, HeadwaterError, RegistryUnavailable, SchemaIncompatible
from schemas.registry import load
from streams.authority.confluent import SchemaRegistry
from streams.authority.registering import Unregistered
from streams.codec import ids_of
from streams.settings import Settings
from tests.streams.authority.apicurio import Door
from tests.streams.gateway.serving import free_port, serving

METRIC, REQUESTED, SIGNAL = (
    load().versions[f"headwater.{name}"][0] for name in ("MetricReported", "ToolCallRequested", "Signal")
)


async def test_what_is_registered_is_found_by_everybody(door: Door) -> None:
    """Our registration and Confluent's own client agree on id, version and schema, both ways."""
    confluent = SchemaRegistryClient({"url": door.url})
    theirs = confluent.register_schema(
        "headwater.MetricReported", Schema(json.dumps(METRIC.definition), "AVRO")
    )
    async with SchemaRegistry(door.url) as registry:
        ours = await registry.register(REQUESTED.subject, REQUESTED.definition)
        assert await registry.register(REQUESTED.subject, REQUESTED.definition) == ours
        assert await registry.ids([REQUESTED, METRIC, SIGNAL]) == [ours, theirs, None]
        assert await registry.definitions([theirs, 2**31 - 1]) == {theirs: METRIC.definition}
    latest = confluent.get_latest_version("headwater.ToolCallRequested")
    assert (latest.schema_id, latest.version) == (ours, 1)
    assert json.loads(str(latest.schema.schema_str)) == REQUESTED.definition


async def test_all_versions_are_found(door: Door) -> None:
    """A subject of several versions is read whole, the oldest first."""
    second = copy.deepcopy(METRIC.definition)
    second["fields"].append({"name": "zone", "type": ["null", "string"], "default": None})
    async with SchemaRegistry(door.url) as registry:
        for definition in (METRIC.definition, second):
            await registry.register("headwater.MetricReported", definition)
        assert await registry.versions("headwater.MetricReported") == [METRIC.definition, second]
        assert await registry.versions("nothing") == []


async def test_an_incompatible_version_is_refused_by_the_registry(door: Door) -> None:
    """The registry's own rules are asked, and its refusal names the subject and its reason."""
    other = copy.deepcopy(METRIC.definition)
    other["fields"].append({"name": "zone", "type": "string"})
    async with SchemaRegistry(door.url) as registry:
        await registry.register(METRIC.subject, METRIC.definition)
        door.http.put("/config/headwater.MetricReported", json={"compatibility": "BACKWARD"})
        await registry.check(METRIC.subject, METRIC.definition)
        await registry.check("headwater.Signal", METRIC.definition)
        with pytest.raises(SchemaIncompatible, match=r"headwater\.MetricReported"):
            await registry.check("headwater.MetricReported", other)
        with pytest.raises(SchemaIncompatible, match=r"headwater\.MetricReported.*zone"):
            await registry.register("headwater.MetricReported", other)


async def test_credentials_come_from_the_address(door: Door) -> None:
    """User and password, escaped in the URL, are sent; wrong or none are refused at once, and never shown."""
    door.password = "s3cret/@:"
    async with SchemaRegistry(door.url) as registry:
        await registry.register(METRIC.subject, METRIC.definition)
    for url in (door.address, door.url.replace("s3cret", "wr0ng")):
        began = time.monotonic()
        with pytest.raises(ConfigurationError, match="refuses the credentials") as caught:
            async with SchemaRegistry(url) as registry:
                await registry.ids([METRIC])
        assert time.monotonic() - began < 2
        assert door.address in caught.value.message
        assert "wr0ng" not in str(caught.value)
        assert "HEADWATER_REGISTRY" in caught.value.hint


async def test_a_registry_that_is_away_is_waited_for_and_named(door: Door) -> None:
    """Nobody there: RegistryUnavailable after the deadline, with address and what to do, not the password."""
    door.password = "s3cret"
    door.shut()
    began = time.monotonic()
    with pytest.raises(RegistryUnavailable, match=f"{door.address} did not answer within 1 s") as caught:
        async with SchemaRegistry(door.url, deadline_s=1) as registry:
            await registry.ids([METRIC])
    assert 0.5 < time.monotonic() - began < 2
    assert caught.value.retriable
    assert "s3cret" not in str(caught.value)


async def test_a_fault_that_passes_is_waited_out(door: Door) -> None:
    """503 for a moment: the conversation goes on where it was, and nothing is asked for ever."""
    door.status = 503

    async def mend() -> None:
        await asyncio.sleep(0.5)
        door.status = None

    async with SchemaRegistry(door.url) as registry, asyncio.TaskGroup() as tasks:
        tasks.create_task(mend())
        assert await registry.ids([METRIC]) == [None]
    assert 2 < sum(door.seen.values()) < 10


@pytest.mark.parametrize("path", ["", "/docs", "/healthz"])
def test_what_is_no_registry_is_told(settings: Settings, path: str) -> None:
    """Another server's answers are no registry's: ConfigurationError with the address, and what belongs there."""
    with serving(settings) as url:
        wrong = Settings(data=settings.data, registry=f"{url}{path}")
        with pytest.raises(ConfigurationError, match=rf"{url}{path}.*as a schema registry") as caught:
            asyncio.run(ids_of(wrong))
    assert "/apis/ccompat/v7" in caught.value.hint


def test_our_own_door_is_a_registry(settings: Settings) -> None:
    """Another instance's /registry gives its ids, behind its key; what it lacks cannot be registered there."""
    from streams.keys import create

    key = create(settings, "acme", ["produce"], "another instance")
    with serving(settings) as url:
        own = Settings(data=settings.data, registry=f"{url.replace('//', f'//me:{key}@')}/registry")
        assert {r.id: r.subject for r in asyncio.run(ids_of(own)).by_id.values()} == {
            r.id: r.subject for r in load().by_id.values()
        }

        async def register() -> None:
            assert own.registry is not None
            async with SchemaRegistry(own.registry.get_secret_value()) as registry:
                await registry.register("headwater.Other", METRIC.definition)

        with pytest.raises(ConfigurationError, match="takes no new schemas"):
            asyncio.run(register())


async def test_an_empty_registry_lacks_all(door: Door, tmp_path: Path) -> None:
    """Before anything is registered processes are refused, with the first schema that is missing and the command."""
    with pytest.raises(
        Unregistered, match=r"lacks headwater\.AgentAnnounced version 1 and \d+ more"
    ) as caught:
        await ids_of(Settings(data=tmp_path, registry=door.url))
    assert "headwater schemas register" in caught.value.hint


@pytest.mark.parametrize(
    "url", ["registry:8081", "ftp://host", "http://", "http://host:0", "http://h:port", "http://h/?a=b"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    """A registry's address is http or https with a host, and nothing after the path."""
    with pytest.raises(ValueError, match="expected http"):
        Settings(registry=url)


def test_an_address_is_shown_without_credentials(tmp_path: Path) -> None:
    """What is printed of the settings has neither user nor password."""
    settings = Settings(data=tmp_path, registry="https://me:s3cret@registry.example:8081/apis/ccompat/v7/")
    assert settings.registry_url == "https://registry.example:8081/apis/ccompat/v7"
    assert "s3cret" not in repr(settings)
    assert Settings(data=tmp_path, registry="").registry is None


def test_nothing_listens(tmp_path: Path) -> None:
    """A port without a listener is an error of ours, not of httpx."""
    settings = Settings(data=tmp_path, registry=f"http://127.0.0.1:{free_port()}")

    async def ask() -> None:
        assert settings.registry is not None
        async with SchemaRegistry(settings.registry.get_secret_value(), 0.3) as registry:
            await registry.definitions([1])

    with pytest.raises(HeadwaterError) as caught:
        asyncio.run(ask())
    assert isinstance(caught.value, RegistryUnavailable)
    assert not isinstance(caught.value, httpx.HTTPError)
