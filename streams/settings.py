"""Settings from the environment (HEADWATER_*) and from `headwater.toml`; the environment wins."""

from __future__ import annotations

import re
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from schemas.errors import ConfigurationError
from streams.security import contradictions

Security = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"]
_ADDRESS = re.compile(r"(?:[\w.-]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})")


class Settings(BaseSettings):
    """Everything that can be set. Ports of the other doors are offsets from `port`."""

    model_config = SettingsConfigDict(
        env_prefix="HEADWATER_",
        toml_file="headwater.toml",
        extra="ignore",
        hide_input_in_errors=True,  # it may be a password
    )

    data: Path = Field(Path(".headwater"), description="Folder for the log, views, keys and run files.")
    port: int = Field(7000, ge=1024, le=65000, description="The HTTP API; Kafka is +92, its controller +93.")
    kafka: str | None = Field(
        None, description="host:port,… of your own cluster; unset: a broker is started here."
    )
    kafka_security: Security = "PLAINTEXT"
    kafka_mechanism: Mechanism = Field("SCRAM-SHA-512", description="How SASL proves who we are.")
    kafka_username: str | None = None
    kafka_password: SecretStr | None = None
    kafka_ca: Path | None = Field(None, description="CA certificates (PEM) for TLS; unset: the system's.")
    kafka_cert: Path | None = Field(None, description="Our certificate (PEM), where Kafka asks for one.")
    kafka_key: Path | None = Field(None, description="Its private key (PEM), unless in the same file.")
    namespace: str = Field(
        "", pattern=r"^[a-zA-Z0-9._-]*$", description="Put before every topic, group and transaction."
    )
    registry: SecretStr | None = Field(
        None,
        description="http(s)://[user:password@]host[:port][/path] of a schema registry; it gives the ids.",
    )
    database: str | None = Field(
        None, description="postgresql:// URL of the views' database; unset: SQLite in the data folder."
    )
    qdrant: str | None = Field(None, description="URL of a Qdrant server; nothing uses it yet.")
    webhook_networks: str = Field(
        "", description="Networks that webhooks may reach although they are private: 10.1.0.0/16,…"
    )
    partitions: int = Field(8, ge=1, le=1024, description="Partitions of keyed and derived topics.")
    raw_partitions: int = Field(2, ge=1, le=1024, description="Partitions of raw topics.")
    replication: int | None = Field(
        None, ge=1, le=7, description="Copies of each topic; unset: three, or as many as there are brokers."
    )
    api_key: SecretStr | None = Field(
        None, description="Key with all rights; unset: made in the data folder."
    )
    snapshot_key: SecretStr | None = Field(
        None, description="Signs snapshots; unset: made in the data folder."
    )
    flush_every_record: bool = Field(
        False, description="Embedded broker: force every record to disk, against power loss."
    )
    disk_reserve_bytes: int = Field(
        512 * 2**20, ge=0, description="Embedded log: new events are refused while less than this is free."
    )
    max_record_bytes: int = Field(1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    quota_events_per_second: float = Field(
        2_000, ge=0, allow_inf_nan=False, description="Of each API key that has no quota of its own; 0: none."
    )
    quota_bytes_per_second: float = Field(
        8 * 2**20, ge=0, allow_inf_nan=False, description="The same in bytes of request bodies."
    )
    log_format: Literal["auto", "console", "json"] = "auto"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("data")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic calls it so
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @field_validator("webhook_networks")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for network in filter(None, map(str.strip, value.split(","))):
            ip_network(network)
        return value

    @field_validator("kafka")
    @classmethod
    def _addresses(cls, value: str | None) -> str | None:
        addresses = [one.strip() for one in (value or "").split(",") if one.strip()]
        for one in addresses:
            found = _ADDRESS.fullmatch(one)
            if found is None or not 0 < int(found[1]) < 65536:
                raise ValueError(f"{one} is no host:port")
        return ",".join(addresses) or None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if found := contradictions(self):
            raise ValueError("; ".join(found))
        return self

    @field_validator("registry")
    @classmethod
    def _is_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        try:
            url = urlsplit(value.get_secret_value())
            well = url.scheme in ("http", "https") and url.hostname and (url.port is None or url.port > 0)
        except ValueError:
            well = False
        if not well or url.query or url.fragment:
            raise ValueError("expected http(s)://[user:password@]host[:port][/path]")
        return value

    @property
    def registry_url(self) -> str | None:
        """Where the schema registry is, without credentials; None where ids are the committed ones."""
        if self.registry is None:
            return None
        url = urlsplit(self.registry.get_secret_value())
        return urlunsplit((url.scheme, url.netloc.rpartition("@")[2], url.path.rstrip("/"), "", ""))

    @property
    def embedded(self) -> bool:
        """Whether this instance runs a broker of its own."""
        return self.kafka is None

    @property
    def kafka_port(self) -> int:
        """Port of the embedded broker, loopback."""
        return self.port + 92

    @property
    def bootstrap(self) -> str:
        """Where Kafka is."""
        return self.kafka or f"127.0.0.1:{self.kafka_port}"

    @property
    def api_url(self) -> str:
        """Where the HTTP API is, loopback."""
        return f"http://127.0.0.1:{self.port}"

    @cached_property
    def database_url(self) -> str:
        """URL of the views' database."""
        return self.database or f"sqlite:///{self.data / 'views.sqlite'}"

    @property
    def run_folder(self) -> Path:
        """Where running processes leave their status."""
        return self.data / "run"

    @property
    def log_folder(self) -> Path:
        """Where processes log when they run under `up`."""
        return self.data / "logs"

    def named(self, name: str) -> str:
        """A topic, group or transactional id inside this instance's namespace."""
        return f"{self.namespace}.{name}" if self.namespace else name


def load() -> Settings:
    """The settings of the environment; raises ConfigurationError naming each one that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        found = "; ".join(map(_flaw, error.errors(include_url=False)))
        raise ConfigurationError(
            f"settings: {found}", hint="set it right in the environment or in headwater.toml"
        ) from error
    except (SettingsError, TOMLDecodeError) as error:
        raise ConfigurationError(
            f"settings cannot be read: {error}", hint="mend headwater.toml or the environment"
        ) from error


def _flaw(error: ErrorDetails) -> str:
    said = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:  # of several settings, which it names
        return said
    name = "_".join(map(str, error["loc"]))
    return f"HEADWATER_{name.upper()}: {said}{_shown(name, error['input'])}"


def _shown(name: str, value: object) -> str:
    return (
        ""
        if any(word in name for word in ("key", "password", "registry", "database"))
        else f" (is {value!r})"
    )
