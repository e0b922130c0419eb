"""One instance a data folder: the lock, and ports that are taken."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import ConfigurationError
from streams.settings import Settings
from streams.supervision.instance import instance_lock, listener, refuse_taken_ports, take_instance
from tests.conftest import free_base_port


def test_the_second_start_names_the_first(tmp_path: Path) -> None:
    """While the lock is held, another start is refused with the holder's pid and what to do."""
    settings = Settings(data=tmp_path)
    first = instance_lock(settings)
    take_instance(first)
    assert first.is_held()
    with pytest.raises(ConfigurationError, match=rf"already runs .*pid {os.getpid()}\b") as caught:
        take_instance(instance_lock(settings))
    assert "HEADWATER_DATA" in caught.value.hint
    first.release()
    second = instance_lock(settings)
    take_instance(second)
    second.release()
    assert not second.is_held()


def test_a_lock_left_by_a_killed_process_is_no_hindrance(tmp_path: Path) -> None:
    """After SIGKILL of the holder its pid is still written there, and the lock can be taken."""
    settings = Settings(data=tmp_path)
    code = (
        "import os, signal; from streams.supervision.instance import instance_lock\n"
        "from streams.settings import Settings\n"
        f"instance_lock(Settings(data={str(tmp_path)!r})).take(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    lock = instance_lock(settings)
    assert lock.holder() is not None
    assert not lock.is_held()
    take_instance(lock)
    assert lock.holder() == os.getpid()
    lock.release()


def test_a_data_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    """A file in the place of the folder is named, with what to set."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be written to"):
        take_instance(instance_lock(Settings(data=tmp_path / "file" / "data")))


@pytest.mark.parametrize(
    ("offset", "named"), [(0, r"HEADWATER_PORT, for api"), (92, r"HEADWATER_PORT \+ 92, for kafka")]
)
def test_a_taken_port_is_named_with_its_user_and_setting(tmp_path: Path, offset: int, named: str) -> None:
    """The error says which port, what wants it, by which setting, and who has it."""
    settings = Settings(data=tmp_path, port=free_base_port())
    refuse_taken_ports(settings)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", settings.port + offset))
        taken.listen()
        found = listener(settings.port + offset)
        assert found is not None
        assert found.pid == os.getpid()
        with pytest.raises(ConfigurationError, match=named) as caught:
            refuse_taken_ports(settings)
    assert f"pid {os.getpid()}" in caught.value.message


def test_a_cluster_of_ones_own_needs_only_the_api_port(tmp_path: Path) -> None:
    """With HEADWATER_KAFKA set, the embedded broker's ports may be anyone's."""
    settings = Settings(data=tmp_path, port=free_base_port(), kafka="kafka:9092")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", settings.kafka_port))
        taken.listen()
        refuse_taken_ports(settings)
