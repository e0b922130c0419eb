"""What a log remembers of its schema ids: compared with those that are in force, never changed."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import ConfigurationError
from schemas.registry import Registered, load
from streams.admin import declared, ensure_topics
from streams.authority.issued import COMMITTED, Issued, as_issued, compare, issued_ids
from streams.settings import Settings

URL = "http://registry"
SIGNAL, METRIC = (load().versions[f"headwater.{n}"][0] for n in ("Signal", "MetricReported"))


def issued(r: Registered, id_: int, by: str = COMMITTED, version: int = 1) -> Issued:
    """An id given out for one of our schemas."""
    return Issued(r.subject, version, id_, by, r.definition)


@pytest.fixture(params=["file", "topic"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """An instance with an embedded broker, and one on a cluster, each with an empty memory."""
    if request.param == "file":
        return Settings(data=tmp_path)
    broker: Settings = request.getfixturevalue("broker")
    own = broker.model_copy(
        update={"data": tmp_path, "kafka": broker.bootstrap, "namespace": f"t{uuid.uuid4().hex[:8]}"}
    )
    specs = [spec for spec in declared(own) if spec.name == "headwater.schema-ids"]
    assert [(s.partitions, s.config["cleanup.policy"]) for s in specs] == [(1, "compact")]
    asyncio.run(ensure_topics(own, specs))
    return own


@pytest.mark.parametrize(
    ("given", "lacking", "sentence"),
    [
        ([issued(SIGNAL, 15, URL)], [], None),
        ([issued(SIGNAL, 15, URL), issued(METRIC, 16, URL), issued(SIGNAL, 17, URL, 2)], [], None),
        ([], [METRIC], None),
        ([issued(SIGNAL, 16, URL)], [], "has id 15, given by the committed lock file; http://registry gives it 16"),
        ([issued(METRIC, 15, URL)], [], "gives that id to another headwater.MetricReported version 1"),
        ([issued(replace(SIGNAL, definition=METRIC.definition), 15, URL)], [], "gives that id to another"),
        ([], [SIGNAL], "http://registry does not have it"),
    ],
)  # fmt: skip
def test_ids_agree_or_are_refused(given: list[Issued], lacking: Any, sentence: str | None) -> None:
    """A new id is fine; another id, another schema for an id, and one that is missing are not."""
    known = [issued(SIGNAL, 15)]
    if sentence is None:
        compare(known, given, lacking, URL)
        return
    with pytest.raises(ConfigurationError) as caught:
        compare(known, given, lacking, URL)
    assert "headwater.Signal version 1 has id 15" in caught.value.message
    assert sentence in caught.value.message
    assert "unset HEADWATER_REGISTRY" in caught.value.hint
    assert "HEADWATER_NAMESPACE" in caught.value.hint


def test_the_way_back_is_named() -> None:
    """To the registry that gave the ids; where it is the same one, to what it was."""
    for by, hint in ((COMMITTED, f"set HEADWATER_REGISTRY to {URL}:"), (URL, "restore that registry")):
        with pytest.raises(ConfigurationError) as caught:
            compare([issued(SIGNAL, 15, URL)], [issued(SIGNAL, 16, by)], (), by)
        assert hint in caught.value.hint


async def test_what_was_added_is_remembered(settings: Settings) -> None:
    """Every id with its schema and giver; adding the same again, by whomever, changes nothing."""
    memory = issued_ids(settings)
    assert await memory.load() == []
    await memory.add(as_issued(load(), COMMITTED))
    assert await issued_ids(settings).load() == as_issued(load(), COMMITTED)
    await memory.add([issued(SIGNAL, SIGNAL.id, URL), issued(SIGNAL, 1000, URL, 0)])
    assert await memory.load() == [*as_issued(load(), COMMITTED), issued(SIGNAL, 1000, URL, 0)]


async def test_what_contradicts_is_not_added(settings: Settings) -> None:
    """Another id for what has one: refused, and the memory is as it was."""
    memory = issued_ids(settings)
    await memory.add([issued(SIGNAL, 15)])
    with pytest.raises(ConfigurationError, match="do not fit the log"):
        await memory.add([issued(SIGNAL, 16, URL), issued(METRIC, 17, URL)])
    assert await memory.load() == [issued(SIGNAL, 15)]


async def test_of_two_that_begin_at_once_not_both_win(settings: Settings) -> None:
    """Two authorities on an empty log in the same moment: at least one is refused."""
    results = await asyncio.gather(
        issued_ids(settings).add([issued(SIGNAL, 15)]),
        issued_ids(settings).add([issued(SIGNAL, 16, URL)]),
        return_exceptions=True,
    )
    assert any(isinstance(r, ConfigurationError) for r in results)
    assert all(r is None or isinstance(r, ConfigurationError) for r in results)


async def test_a_cluster_without_the_topic_remembers_nothing(broker: Settings) -> None:
    """Before `headwater topics create` there is nothing to contradict."""
    own = broker.model_copy(update={"kafka": broker.bootstrap, "namespace": "never-made"})
    assert await issued_ids(own).load() == []


async def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Half a file is no empty memory: refused, with its path and what to do."""
    settings = Settings(data=tmp_path)
    await issued_ids(settings).add([issued(SIGNAL, 15)])
    path = tmp_path / "kafka" / "schema-ids.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigurationError, match=str(path)) as caught:
        await issued_ids(settings).load()
    assert "backup" in caught.value.hint


async def test_namespaces_of_a_folder_have_their_own(tmp_path: Path) -> None:
    """Other topics, other ids: what one namespace was given is nothing to another."""
    one, two = (Settings(data=tmp_path, namespace=name) for name in ("one", "two"))
    await issued_ids(one).add([issued(SIGNAL, 15)])
    assert await issued_ids(two).load() == []
