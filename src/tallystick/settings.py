"""Every setting there is, from the environment: ``TALLY_*``, or the name one of the five systems gave it."""

from __future__ import annotations

import os
from collections.abc import Callable
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AliasChoices, AwareDatetime, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tallystick.access.model import MAX_REQUESTS_PER_MINUTE
from tallystick.access.oidc import check_issuer
from tallystick.customers.service import check_email
from tallystick.kernel.errors import InvalidInput
from tallystick.ledger.tigerbeetle.addresses import (
    CLUSTER_ID_MAX,
    DEFAULT_PORT,
    Cluster,
    parse_addresses,
    parse_cluster,
)
from tallystick.metering.sources.cloud_foundry_client import check_api_url
from tallystick.notices.office import MailServer, Office, Security
from tallystick.notices.placeholders import read_templates
from tallystick.outbox.address import check_broker_url
from tallystick.outbox.webhooks.territory import LOOPBACK, Territory, read_networks

POSTGRES = "postgres"
"""The setting ``ledger`` for balances in the database itself."""


def default_data_dir() -> Path:
    """Where a laptop keeps its books: the user's data folder, or ``/var/lib/tallystick`` for root."""
    if os.geteuid() == 0:
        return Path("/var/lib/tallystick")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "tallystick"


def _named(name: str, *aliases: str) -> AliasChoices:
    return AliasChoices(f"TALLY_{name}", *aliases)


class Settings(BaseSettings):
    """Read once at start. An unreadable value stops the start and names the variable; an empty one is not set."""

    model_config = SettingsConfigDict(extra="ignore", frozen=True, populate_by_name=True, env_ignore_empty=True)

    host: str = Field("127.0.0.1", validation_alias=_named("HOST"))
    """Address to bind."""
    port: int = Field(8001, ge=0, le=65535, validation_alias=_named("PORT", "PORT"))
    """Port to bind; 0 takes a free one."""
    data_dir: Path = Field(default_factory=default_data_dir, validation_alias=_named("DATA_DIR"))
    """Folder of the embedded PostgreSQL."""
    postgres_user: str = Field("nobody", validation_alias=_named("POSTGRES_USER"))
    """The unprivileged user under which the embedded PostgreSQL runs if the service runs as root."""
    database_url: str | None = Field(None, validation_alias=_named("DATABASE_URL"))
    """A PostgreSQL server of your own (15 or newer), instead of the embedded one."""
    database_pool_size: int = Field(8, ge=4, le=100, validation_alias=_named("DATABASE_POOL_SIZE"))
    """Connections that one process holds."""
    ledger: str | None = Field(None, validation_alias=_named("LEDGER"))
    """Where balances are kept: ``postgres``, or ``tigerbeetle://CLUSTER@HOST:PORT,HOST:PORT``."""
    tigerbeetle_cluster_id: int = Field(
        0, ge=0, le=CLUSTER_ID_MAX, validation_alias=_named("TIGERBEETLE_CLUSTER_ID", "TIGERBEETLE_CLUSTER_ID")
    )
    """The cluster's number, if it is named by ``tigerbeetle_host``."""
    tigerbeetle_host: str | None = Field(None, validation_alias=_named("TIGERBEETLE_HOST", "TIGERBEETLE_HOST"))
    """Host of a TigerBeetle of one replica. Setting it chooses TigerBeetle, unless ``ledger`` is set."""
    tigerbeetle_port: int = Field(3000, ge=1, le=65535, validation_alias=_named("TIGERBEETLE_PORT", "TIGERBEETLE_PORT"))
    """Its port."""
    business_zone: str = Field("America/New_York", validation_alias=_named("BUSINESS_ZONE"))
    """The zone whose months are billed."""
    log_level: str = Field("INFO", validation_alias=_named("LOG_LEVEL", "LOG_LEVEL"))
    """DEBUG, INFO, WARNING, ERROR or CRITICAL."""
    dev: bool = Field(False, validation_alias=_named("DEV"))
    """Open to everybody on loopback, without keys. ``tally serve --dev`` sets it."""

    worker: bool = Field(True, validation_alias=_named("WORKER"))
    """Whether ``tally serve`` runs jobs. If not, ``tally worker`` does."""
    worker_concurrency: int = Field(4, ge=1, le=50, validation_alias=_named("WORKER_CONCURRENCY"))
    """Jobs that one worker runs at a time."""
    worker_lost_seconds: int = Field(30, ge=1, le=3600, validation_alias=_named("WORKER_LOST_SECONDS"))
    """How long a worker may give no sign of life before others take its jobs over."""
    job_attempts: int = Field(10, ge=1, le=100, validation_alias=_named("JOB_ATTEMPTS"))
    """How often a job is tried before it is dead."""
    job_retry_seconds: int = Field(2, ge=0, le=3600, validation_alias=_named("JOB_RETRY_SECONDS"))
    """The pause after a job's first failure; each further one is twice as long, up to an hour."""
    keep_jobs_days: int = Field(30, ge=1, le=3660, validation_alias=_named("KEEP_JOBS_DAYS"))
    """How long jobs that succeeded are kept."""

    api_keys: str = Field("", validation_alias=_named("API_KEYS", "API_KEYS"))
    """Comma-separated bearer keys. Once set, callers must present one, with ``--dev`` too."""
    admin_api_keys: str = Field("", validation_alias=_named("ADMIN_API_KEYS", "ADMIN_API_KEYS"))
    """Comma-separated bearer keys of administrators."""
    key_requests_per_minute: int | None = Field(
        None, ge=1, le=MAX_REQUESTS_PER_MINUTE, validation_alias=_named("KEY_REQUESTS_PER_MINUTE")
    )
    """Most requests of a key that has no limit of its own; any number if unset. Each process counts for itself."""
    auth_token: SecretStr | None = Field(None, validation_alias=_named("AUTH_TOKEN", "AUTH_TOKEN"))
    """What ``X-Token`` must say on the account management's surface. Once set, callers must, with ``--dev`` too."""
    two_fa: SecretStr | None = Field(None, validation_alias=_named("TWO_FA", "TWO_FA"))
    """What ``TWO-FA`` must say besides, where everything is erased."""
    oidc_issuer: str | None = Field(None, validation_alias=_named("OIDC_ISSUER", "OIDC_ISSUER"))
    """The issuer whose tokens open ``/admin``, as they name it. Once set, callers must show one, with ``--dev`` too."""
    oidc_clock_skew_seconds: int = Field(60, ge=0, le=600, validation_alias=_named("OIDC_CLOCK_SKEW_SECONDS"))
    """How much the issuer's clock may differ from ours."""
    oidc_customer_claim: str = Field("customer_id", validation_alias=_named("OIDC_CUSTOMER_CLAIM"))
    """The claim that names the customer, by key or id, whose usage a token with the scope ``usage.read`` shows."""
    cf_client_id: str | None = Field(None, validation_alias=_named("CF_CLIENT_ID", "CF_CLIENT_ID"))
    """The platform's name for this service: the audience of tokens, and who asks for one with ``tally token``."""
    cf_client_secret: SecretStr | None = Field(None, validation_alias=_named("CF_CLIENT_SECRET", "CF_CLIENT_SECRET"))
    """The secret that belongs to it."""
    cf_api_url: str | None = Field(None, validation_alias=_named("CF_API_URL", "CF_API_URL"))
    """The API of the Cloud Foundry platform whose apps and services are read."""
    cors_allowed_origins: str = Field("", validation_alias=_named("CORS_ALLOWED_ORIGINS", "CORS_ALLOWED_ORIGINS"))
    """Comma-separated origins whose pages may call."""

    enable_events: bool = Field(False, validation_alias=_named("ENABLE_EVENTS", "ENABLE_EVENTS"))
    """Whether events go to the broker, and orders are taken from it."""
    broker_url: SecretStr | None = Field(None, validation_alias=_named("CLOUDAMQP_URL", "CLOUDAMQP_URL"))
    """The RabbitMQ: ``amqp://HOST:PORT/VHOST``, or ``amqps://``, with user and password before the host."""
    broker_retries: int = Field(5, ge=1, le=1000, validation_alias=_named("CLOUDAMQP_RETRIES", "CLOUDAMQP_RETRIES"))
    """How often the pause before it is tried again grows; it is tried for ever."""
    broker_timeout_seconds: int = Field(
        2, ge=1, le=3600, validation_alias=_named("CLOUDAMQP_TIMEOUT", "CLOUDAMQP_TIMEOUT")
    )
    """The first pause, and by how much each further one is longer."""

    webhook_networks: str = Field("", validation_alias=_named("WEBHOOK_NETWORKS"))
    """Comma-separated networks that webhooks may reach besides the public internet; ``--dev`` adds the loopback."""
    webhook_disable_days: int = Field(5, ge=1, le=60, validation_alias=_named("WEBHOOK_DISABLE_DAYS"))
    """After so many days of nothing but failures a webhook is disabled."""
    keep_deliveries_days: int = Field(30, ge=5, le=3660, validation_alias=_named("KEEP_DELIVERIES_DAYS"))
    """How long what became of each event for a webhook is kept, and can be sent once more."""

    mail_smtp_server: str | None = Field(None, validation_alias=_named("MAIL_SMTP_SERVER", "MAIL_SMTP_SERVER"))
    """The SMTP server that takes notices; none are sent without it."""
    mail_smtp_port: int = Field(25, ge=1, le=65535, validation_alias=_named("MAIL_SMTP_PORT", "MAIL_SMTP_PORT"))
    """Its port."""
    mail_smtp_user: str | None = Field(None, validation_alias=_named("MAIL_SMTP_USER", "MAIL_SMTP_USER"))
    """Who logs in there, with the password; nobody does if one of them is missing."""
    mail_smtp_password: SecretStr | None = Field(
        None, validation_alias=_named("MAIL_SMTP_PASSWORD", "MAIL_SMTP_PASSWORD")
    )
    """The password."""
    mail_security: Security = Field("starttls", validation_alias=_named("MAIL_SECURITY"))
    """``starttls``: the server must offer TLS. ``tls``: it is there from the start. ``none``: nothing is encrypted."""
    mail_not_starttls: bool = Field(False, validation_alias=_named("MAIL_NOT_STARTTLS", "MAIL_NOT_STARTTLS"))
    """Set to anything, it says ``none`` of ``mail_security``, as it always did."""
    mail_ca_file: Path | None = Field(None, validation_alias=_named("MAIL_CA_FILE"))
    """Certificates that are trusted besides the machine's, as PEM."""
    mail_timeout_seconds: int = Field(10, ge=1, le=60, validation_alias=_named("MAIL_TIMEOUT_SECONDS"))
    """How long each step of a conversation with the mail server may take."""
    mail_from: str = Field("tallystick@localhost", validation_alias=_named("MAIL_FROM", "MAIL_FROM"))
    """Who writes."""
    governance_mail: str | None = Field(None, validation_alias=_named("CLOUD_GOVERNANCE_MAIL", "CLOUD_GOVERNANCE_MAIL"))
    """Who gets a copy of notices."""
    notification_to_overwrite: str | None = Field(
        None, validation_alias=_named("NOTIFICATION_TO_OVERWRITE", "NOTIFICATION_TO_OVERWRITE")
    )
    """Who gets every notice, instead of all others."""
    notice_link: str | None = Field(None, validation_alias=_named("NOTICE_LINK"))
    """Where notices send their readers: a page that shows what was used."""
    notice_templates: Path | None = Field(None, validation_alias=_named("NOTICE_TEMPLATES"))
    """A folder of templates with ``$placeholders``, instead of the shipped ones."""

    max_body_bytes: int = Field(32 << 20, ge=1024, validation_alias=_named("MAX_BODY_BYTES"))
    """Longest request body."""
    max_events: int = Field(50_000, ge=1, validation_alias=_named("MAX_EVENTS"))
    """Most events or lines in one request."""

    os_credits_precision: int = Field(
        2, ge=0, le=6, validation_alias=_named("OS_CREDITS_PRECISION", "OS_CREDITS_PRECISION")
    )
    """Decimal places to which the built-in OpenStack prices are rounded."""
    vcpu_credit_per_hour: Decimal = Field(
        Decimal(1), gt=0, validation_alias=_named("VCPU_CREDIT_PER_HOUR", "VCPU_CREDIT_PER_HOUR")
    )
    """Credits for one vCPU during one hour."""
    ram_credit_per_hour: Decimal = Field(
        Decimal("0.3"), gt=0, validation_alias=_named("RAM_CREDIT_PER_HOUR", "RAM_CREDIT_PER_HOUR")
    )
    """Credits for one GiB of memory during one hour."""
    project_whitelist: str | None = Field(
        None, validation_alias=_named("OS_CREDITS_PROJECT_WHITELIST", "OS_CREDITS_PROJECT_WHITELIST")
    )
    """Semicolon-separated projects whose usage ``/write`` records, and Prometheus' sources; all if unset."""
    series_file: Path | None = Field(None, validation_alias=_named("SERIES_FILE"))
    """Rules that say which series of Prometheus are usage; without it, those of the OpenStack exporter."""
    prometheus_url: str | None = Field(None, validation_alias=_named("PROMETHEUS_URL"))
    """The Prometheus that is asked for usage every hour, and by ``tally pull``."""
    prometheus_token: SecretStr | None = Field(None, validation_alias=_named("PORTAL_AUTH_TOKEN", "PORTAL_AUTH_TOKEN"))
    """The bearer token that it is shown."""
    pull_step_seconds: int = Field(3600, ge=1, le=86_400, validation_alias=_named("PULL_STEP_SECONDS"))
    """Distance of the instants for which it is asked every hour."""
    pull_overlap_seconds: int = Field(3600, ge=0, le=86_400, validation_alias=_named("PULL_OVERLAP_SECONDS"))
    """So far back it is asked again, for what came late to it."""
    pull_since: AwareDatetime | None = Field(None, validation_alias=_named("PULL_SINCE"))
    """The first instant for which it is asked; without it, when it is looked at for the first time."""

    @field_validator("ledger")
    @classmethod
    def _known_ledger(cls, text: str | None) -> str | None:
        if text not in (None, POSTGRES):
            _readable(lambda: parse_cluster(str(text)))
        return text

    @field_validator("tigerbeetle_host")
    @classmethod
    def _one_host(cls, host: str | None) -> str | None:
        if host is not None:
            _readable(lambda: parse_addresses(f"{host}:{DEFAULT_PORT}"))
            if "," in host:
                raise ValueError("it must be one host; TALLY_LEDGER takes several addresses")
        return host

    @field_validator("oidc_issuer")
    @classmethod
    def _askable_issuer(cls, url: str | None) -> str | None:
        if url is not None:
            _readable(lambda: check_issuer(url))
        return url

    @field_validator("cf_api_url")
    @classmethod
    def _readable_platform(cls, url: str | None) -> str | None:
        if url is not None:
            _readable(lambda: check_api_url(url))
        return url

    @field_validator("broker_url")
    @classmethod
    def _known_broker(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None:
            _readable(lambda: check_broker_url(url.get_secret_value()))
        return url

    @field_validator("webhook_networks")
    @classmethod
    def _known_networks(cls, text: str) -> str:
        _readable(lambda: read_networks(text))
        return text

    @field_validator("mail_not_starttls", mode="before")
    @classmethod
    def _is_set(cls, value: object) -> bool:
        return value is True or isinstance(value, str)

    @field_validator("governance_mail", "notification_to_overwrite")
    @classmethod
    def _known_address(cls, address: str | None) -> str | None:
        if address is not None:
            _readable(lambda: check_email(address))
        return address

    @field_validator("mail_from")
    @classmethod
    def _known_sender(cls, address: str) -> str:
        name, _, domain = address.rpartition("@")
        if not (name and domain and address.isascii() and address.isprintable() and " " not in address):
            raise ValueError("it must be an e-mail address")
        return address

    @field_validator("notice_link")
    @classmethod
    def _readable_link(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("https://", "http://")):
            raise ValueError("it must be a URL: https://...")
        return url

    @field_validator("notice_templates")
    @classmethod
    def _readable_templates(cls, folder: Path | None) -> Path | None:
        if folder is not None:
            _readable(lambda: read_templates(folder))
        return folder

    @field_validator("business_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{name!r} is no time zone of the IANA database") from None
        return name

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, name: str) -> str:
        level = name.upper()
        return level if level in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL") else "INFO"

    @cached_property
    def zone(self) -> ZoneInfo:
        """The business zone."""
        return ZoneInfo(self.business_zone)

    @cached_property
    def tigerbeetle(self) -> Cluster | None:
        """The TigerBeetle cluster that keeps the balances; ``None`` if PostgreSQL does."""
        if self.ledger is not None:
            return None if self.ledger == POSTGRES else parse_cluster(self.ledger)
        if self.tigerbeetle_host is None:
            return None
        return Cluster(self.tigerbeetle_cluster_id, f"{self.tigerbeetle_host}:{self.tigerbeetle_port}")

    @cached_property
    def mail_server(self) -> MailServer | None:
        """The server that takes notices; ``None`` if none is named."""
        if self.mail_smtp_server is None:
            return None
        password = self.mail_smtp_password
        return MailServer(
            self.mail_smtp_server,
            self.mail_smtp_port,
            self.mail_from,
            "none" if self.mail_not_starttls else self.mail_security,
            self.mail_smtp_user,
            None if password is None else password.get_secret_value(),
            self.mail_ca_file,
            self.mail_timeout_seconds,
        )

    @cached_property
    def office(self) -> Office:
        """On whose behalf notices are written."""
        folder = self.notice_templates
        return Office(
            self.zone,
            self.governance_mail,
            self.notification_to_overwrite,
            self.notice_link,
            {} if folder is None else read_templates(folder),
        )

    @cached_property
    def client_keys(self) -> frozenset[str]:
        """The keys of ``api_keys``."""
        return _split(self.api_keys, ",")

    @cached_property
    def admin_keys(self) -> frozenset[str]:
        """The keys of ``admin_api_keys``."""
        return _split(self.admin_api_keys, ",")

    @cached_property
    def webhook_territory(self) -> Territory:
        """Where webhooks may go."""
        return Territory([*read_networks(self.webhook_networks), *(LOOPBACK if self.dev else ())])

    @cached_property
    def whitelist(self) -> frozenset[str] | None:
        """The projects of ``project_whitelist``."""
        return None if self.project_whitelist is None else _split(self.project_whitelist, ";")


def _readable(read: Callable[[], object]) -> None:
    try:
        read()
    except InvalidInput as error:
        raise ValueError(error.detail) from None


def _split(text: str, separator: str) -> frozenset[str]:
    return frozenset(part.strip() for part in text.split(separator) if part.strip())
