"""Settings of Kafka's security that contradict each other, or name files of another kind, are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import ConfigurationError
from streams.security import tls_context
from streams.settings import Settings, load
from tests.streams.certificates import Authority

KAFKA = {"HEADWATER_KAFKA": "127.0.0.1:9092"}
LOGIN = {"HEADWATER_KAFKA_USERNAME": "alice", "HEADWATER_KAFKA_PASSWORD": "correct horse"}
SASL = KAFKA | LOGIN | {"HEADWATER_KAFKA_SECURITY": "SASL_SSL"}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Files by what they are."""
    authority = Authority(tmp_path / "ca")
    one = authority.issue("one", "localhost")
    other = authority.issue("other", "localhost")
    locked = authority.issue("locked", "localhost", passphrase=b"open sesame")
    (tmp_path / "text").write_text("no PEM at all")
    return {
        "ca": str(authority.path), "cert": str(one.cert), "key": str(one.key), "both": str(one.both),
        "other key": str(other.key), "locked key": str(locked.key), "text": str(tmp_path / "text"),
        "missing": str(tmp_path / "missing"),
    }  # fmt: skip


def refusal(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> str:
    """What is said of settings that are refused."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refused:
        load()
    said = str(refused.value)
    assert "correct horse" not in said
    assert "correct horse" not in repr(refused.value.__cause__)
    return said


@pytest.mark.parametrize("missing", ["USERNAME", "PASSWORD"])
@pytest.mark.parametrize("empty", [False, True])
def test_a_login_without_name_or_password(
    monkeypatch: pytest.MonkeyPatch, missing: str, *, empty: bool
) -> None:
    """SASL needs both; what is missing or empty is named."""
    environment = SASL | {f"HEADWATER_KAFKA_{missing}": ""}
    if not empty:
        del environment[f"HEADWATER_KAFKA_{missing}"]
    assert f"HEADWATER_KAFKA_{missing} is missing" in refusal(monkeypatch, environment)


@pytest.mark.parametrize("name", ["USERNAME", "PASSWORD", "MECHANISM", "CA", "CERT", "KEY"])
def test_what_would_not_be_used(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A login or certificates for a plaintext connection are a mistake, most likely in the security."""
    value = "PLAIN" if name == "MECHANISM" else "correct horse"
    said = refusal(monkeypatch, KAFKA | {f"HEADWATER_KAFKA_{name}": value})
    assert f"HEADWATER_KAFKA_{name}" in said
    assert "HEADWATER_KAFKA_SECURITY is PLAINTEXT" in said


def test_security_without_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded broker has none: it is loopback's alone."""
    said = refusal(monkeypatch, LOGIN | {"HEADWATER_KAFKA_SECURITY": "SASL_SSL"})
    assert "HEADWATER_KAFKA_SECURITY, HEADWATER_KAFKA_USERNAME, HEADWATER_KAFKA_PASSWORD" in said


@pytest.mark.parametrize("name", ["MECHANISM", "SECURITY"])
def test_unknown_words(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What there is, is said."""
    said = refusal(monkeypatch, SASL | {f"HEADWATER_KAFKA_{name}": "GSSAPI"})
    assert f"HEADWATER_KAFKA_{name}" in said
    assert "PLAIN" in said


@pytest.mark.parametrize(
    ("given", "named", "says"),
    [
        ({"CA": "missing"}, "HEADWATER_KAFKA_CA", "No such file"),
        ({"CA": "text"}, "HEADWATER_KAFKA_CA", "no certificates in PEM"),
        ({"CA": "key"}, "HEADWATER_KAFKA_CA", "no certificates in PEM"),
        ({"CERT": "cert"}, "HEADWATER_KAFKA_CERT", "private key"),
        ({"KEY": "key"}, "HEADWATER_KAFKA_CERT", "missing"),
        ({"CERT": "cert", "KEY": "missing"}, "HEADWATER_KAFKA_KEY", "No such file"),
        ({"CERT": "cert", "KEY": "other key"}, "HEADWATER_KAFKA_KEY", "private key"),
        ({"CERT": "text", "KEY": "key"}, "HEADWATER_KAFKA_CERT", "private key"),
        ({"CERT": "cert", "KEY": "locked key"}, "HEADWATER_KAFKA_KEY", "encrypted"),
    ],
)
def test_files_of_another_kind(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], given: dict[str, str], named: str, says: str
) -> None:
    """A file that is missing or is something else is refused with its setting's name."""
    environment = {f"HEADWATER_KAFKA_{name}": files[kind] for name, kind in given.items()}
    said = refusal(monkeypatch, KAFKA | environment | {"HEADWATER_KAFKA_SECURITY": "SSL"})
    assert named in said
    assert says in said


def test_files_that_fit(files: dict[str, str]) -> None:
    """A certificate with its key beside it or in the same file, and the CA, make a context."""
    for own in ({"kafka_cert": files["cert"], "kafka_key": files["key"]}, {"kafka_cert": files["both"]}):
        settings = Settings.model_validate(
            {"kafka": "localhost:9093", "kafka_security": "SSL", "kafka_ca": files["ca"]} | own
        )
        assert tls_context(settings).cert_store_stats()["x509_ca"] == 1


@pytest.mark.parametrize(
    "value", ["localhost", "kafka://localhost:9092", ":9092", "localhost:0", "localhost:9092;b:9092"]
)
def test_an_address_that_is_none(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Each address is a host and a port; the one that is not is told."""
    said = refusal(monkeypatch, {"HEADWATER_KAFKA": f"a:1,{value}"})
    assert "HEADWATER_KAFKA: " in said
    assert value in said


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spaces and a last comma do no harm; nothing at all means the embedded broker."""
    monkeypatch.setenv("HEADWATER_KAFKA", " a:1, [::1]:2 ,")
    assert load().bootstrap == "a:1,[::1]:2"
    monkeypatch.setenv("HEADWATER_KAFKA", " ")
    assert load().embedded
