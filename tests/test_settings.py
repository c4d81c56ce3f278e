from __future__ import annotations

import os
from contextlib import nullcontext
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from pydantic import SecretStr, ValidationError

from tallystick.outbox.webhooks.territory import Forbidden
from tallystick.settings import Settings, default_data_dir

BOTH = ["127.0.0.1", "10.1.2.3"]

OTHER_NAMES = {
    "AUTH_TOKEN": ("auth_token", "open sesame", SecretStr("open sesame")),
    "TWO_FA": ("two_fa", "123456", SecretStr("123456")),
    "PORT": ("port", "9000", 9000),
    "LOG_LEVEL": ("log_level", "debug", "DEBUG"),
    "API_KEYS": ("api_keys", "a,b", "a,b"),
    "ADMIN_API_KEYS": ("admin_api_keys", "a,b", "a,b"),
    "CORS_ALLOWED_ORIGINS": ("cors_allowed_origins", "https://a.example", "https://a.example"),
    "OIDC_ISSUER": ("oidc_issuer", "https://issuer.example/oauth/token", "https://issuer.example/oauth/token"),
    "CF_CLIENT_ID": ("cf_client_id", "billing", "billing"),
    "CF_CLIENT_SECRET": ("cf_client_secret", "a word", SecretStr("a word")),
    "CF_API_URL": ("cf_api_url", "https://api.example", "https://api.example"),
    "ENABLE_EVENTS": ("enable_events", "True", True),
    "CLOUDAMQP_URL": ("broker_url", "amqp://broker.example", SecretStr("amqp://broker.example")),
    "CLOUDAMQP_RETRIES": ("broker_retries", "3", 3),
    "CLOUDAMQP_TIMEOUT": ("broker_timeout_seconds", "7", 7),
    "MAIL_SMTP_SERVER": ("mail_smtp_server", "mail.example", "mail.example"),
    "MAIL_SMTP_PORT": ("mail_smtp_port", "587", 587),
    "MAIL_SMTP_USER": ("mail_smtp_user", "tally", "tally"),
    "MAIL_SMTP_PASSWORD": ("mail_smtp_password", "a word", SecretStr("a word")),
    "MAIL_NOT_STARTTLS": ("mail_not_starttls", "false", True),
    "MAIL_FROM": ("mail_from", "billing@example.org", "billing@example.org"),
    "CLOUD_GOVERNANCE_MAIL": ("governance_mail", "board@example.org", "board@example.org"),
    "NOTIFICATION_TO_OVERWRITE": ("notification_to_overwrite", "test@example.org", "test@example.org"),
    "OS_CREDITS_PRECISION": ("os_credits_precision", "3", 3),
    "VCPU_CREDIT_PER_HOUR": ("vcpu_credit_per_hour", "1.50", Decimal("1.5")),
    "RAM_CREDIT_PER_HOUR": ("ram_credit_per_hour", "0.3", Decimal("0.3")),
    "TIGERBEETLE_CLUSTER_ID": ("tigerbeetle_cluster_id", "7", 7),
    "TIGERBEETLE_HOST": ("tigerbeetle_host", "ledger.example", "ledger.example"),
    "TIGERBEETLE_PORT": ("tigerbeetle_port", "3001", 3001),
    "PORTAL_AUTH_TOKEN": ("prometheus_token", "t", SecretStr("t")),
    "OS_CREDITS_PROJECT_WHITELIST": ("project_whitelist", "a;b", "a;b"),
}
"""What the systems before called a setting; with ``TALLY_`` before it, it is always a name of it too."""


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().removeprefix("TALLY_") in OTHER_NAMES or name.upper().startswith("TALLY_"):
            monkeypatch.delenv(name)


def test_nothing_set_is_safe_and_local() -> None:
    settings = Settings()
    assert (settings.host, settings.port, settings.dev) == ("127.0.0.1", 8001, False)
    assert settings.database_url is None
    assert (settings.client_keys, settings.admin_keys, settings.whitelist) == (frozenset(), frozenset(), None)
    assert settings.zone == ZoneInfo("America/New_York")
    assert (settings.max_body_bytes, settings.max_events) == (32 * 1024 * 1024, 50_000)
    assert (settings.os_credits_precision, settings.vcpu_credit_per_hour, settings.ram_credit_per_hour) == (
        2,
        Decimal(1),
        Decimal("0.3"),
    )


@pytest.mark.parametrize("prefix", ["", "TALLY_"])
@pytest.mark.parametrize("name", OTHER_NAMES)
def test_a_setting_is_read_by_the_names_it_had_before(monkeypatch: pytest.MonkeyPatch, prefix: str, name: str) -> None:
    field, text, value = OTHER_NAMES[name]
    monkeypatch.setenv(prefix + name, text)
    assert getattr(Settings(), field) == value


def test_no_setting_has_other_names_than_these() -> None:
    names = {
        name for field in Settings.model_fields.values() for name in getattr(field.validation_alias, "choices", ())
    }
    assert {name for name in names if not str(name).startswith("TALLY_")} == set(OTHER_NAMES)
    assert all(f"TALLY_{name}" in names for name in OTHER_NAMES)


def test_our_own_name_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLY_PORT", "9001")
    monkeypatch.setenv("PORT", "9002")
    assert Settings().port == 9001


@pytest.mark.parametrize(
    "name",
    ["TALLY_PORT", "TALLY_DATABASE_URL", "TALLY_DATA_DIR", "TALLY_BUSINESS_ZONE", "OS_CREDITS_PROJECT_WHITELIST"],
)
def test_a_variable_set_to_nothing_is_not_set(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    unset = Settings()
    monkeypatch.setenv(name, "")
    assert Settings() == unset


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TALLY_PORT", "http"),
        ("TALLY_PORT", "65536"),
        ("TALLY_PORT", "-1"),
        ("TALLY_DATABASE_POOL_SIZE", "3"),
        ("TALLY_DATABASE_POOL_SIZE", "1000"),
        ("TALLY_LEDGER", "mysql"),
        ("TALLY_LEDGER", "tigerbeetle://127.0.0.1:3000"),
        ("TALLY_LEDGER", "tigerbeetle://0@127.0.0.1:0"),
        ("TALLY_LEDGER", "tigerbeetle://-1@127.0.0.1:3000"),
        ("TALLY_LEDGER", "tigerbeetle://0@a:1,a:2,a:3,a:4,a:5,a:6,a:7"),
        ("TALLY_TIGERBEETLE_HOST", "a:3000"),
        ("TALLY_TIGERBEETLE_HOST", "a,b"),
        ("TALLY_TIGERBEETLE_PORT", "0"),
        ("TALLY_TIGERBEETLE_CLUSTER_ID", "-1"),
        ("TALLY_BUSINESS_ZONE", "Mars/Base"),
        ("TALLY_BUSINESS_ZONE", "../../etc/passwd"),
        ("TALLY_DEV", "perhaps"),
        ("TALLY_OIDC_ISSUER", "issuer.example"),
        ("TALLY_OIDC_ISSUER", "http://issuer.example"),
        ("TALLY_OIDC_ISSUER", "https://user:word@issuer.example"),  # pragma: allowlist secret
        ("TALLY_OIDC_CLOCK_SKEW_SECONDS", "-1"),
        ("TALLY_OIDC_CLOCK_SKEW_SECONDS", "601"),
        ("TALLY_CF_API_URL", "http://api.example"),
        ("TALLY_CF_API_URL", "https://api.example/?a=b"),
        ("TALLY_ENABLE_EVENTS", "perhaps"),
        ("TALLY_CLOUDAMQP_URL", "http://broker.example"),
        ("TALLY_CLOUDAMQP_URL", "broker.example"),
        ("TALLY_CLOUDAMQP_RETRIES", "0"),
        ("TALLY_CLOUDAMQP_TIMEOUT", "0"),
        ("TALLY_WEBHOOK_NETWORKS", "10.0.0.1/8"),
        ("TALLY_WEBHOOK_NETWORKS", "private"),
        ("TALLY_WEBHOOK_DISABLE_DAYS", "0"),
        ("TALLY_KEEP_DELIVERIES_DAYS", "4"),
        ("TALLY_MAIL_SMTP_PORT", "0"),
        ("TALLY_MAIL_SECURITY", "ssl"),
        ("TALLY_MAIL_TIMEOUT_SECONDS", "0"),
        ("TALLY_MAIL_FROM", "billing"),
        ("TALLY_MAIL_FROM", "a b@example.org"),
        ("TALLY_CLOUD_GOVERNANCE_MAIL", "board"),
        ("TALLY_NOTIFICATION_TO_OVERWRITE", "me"),
        ("TALLY_NOTICE_LINK", "javascript:alert(1)"),
        ("TALLY_NOTICE_TEMPLATES", "/no/such/folder"),
        ("TALLY_MAX_BODY_BYTES", "0"),
        ("TALLY_MAX_EVENTS", "0"),
        ("TALLY_OS_CREDITS_PRECISION", "7"),
        ("TALLY_OS_CREDITS_PRECISION", "-1"),
        ("TALLY_VCPU_CREDIT_PER_HOUR", "0"),
        ("TALLY_VCPU_CREDIT_PER_HOUR", "one"),
        ("TALLY_PULL_STEP_SECONDS", "0"),
        ("TALLY_PULL_STEP_SECONDS", "86401"),
        ("TALLY_PULL_OVERLAP_SECONDS", "-1"),
        ("TALLY_PULL_SINCE", "2026-11-01T00:00:00"),
        ("TALLY_RAM_CREDIT_PER_HOUR", "nan"),
        ("TALLY_RAM_CREDIT_PER_HOUR", "-0.3"),
    ],
)
def test_a_wrong_value_is_refused_and_its_variable_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert [fault["loc"] for fault in refused.value.errors()] == [(name,)]


def test_a_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CF_CLIENT_SECRET", "swordfish")
    assert "swordfish" not in repr(Settings())


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLY_PORT", "http")
    monkeypatch.setenv("TALLY_BUSINESS_ZONE", "Mars/Base")
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert {fault["loc"] for fault in refused.value.errors()} == {("TALLY_PORT",), ("TALLY_BUSINESS_ZONE",)}


@pytest.mark.parametrize(
    ("value", "level"), [("warning", "WARNING"), ("ERROR", "ERROR"), ("loud", "INFO"), ("", "INFO")]
)
def test_a_log_level_that_cannot_be_read_is_info(monkeypatch: pytest.MonkeyPatch, value: str, level: str) -> None:
    """As platform billing has it: a typing error in a log level must not stop a service."""
    monkeypatch.setenv("LOG_LEVEL", value)
    assert Settings().log_level == level


@pytest.mark.parametrize(
    ("value", "is_on"), [("yes", True), ("1", True), ("no", False), ("0", False), ("False", False)]
)
def test_a_switch_is_off_when_it_says_so(monkeypatch: pytest.MonkeyPatch, value: str, is_on: bool) -> None:
    """[B] the OpenStack credits service took anything but nothing for yes, the word ``False`` too."""
    monkeypatch.setenv("TALLY_WORKER", value)
    monkeypatch.setenv("TALLY_DEV", value)
    settings = Settings()
    assert (settings.worker, settings.dev) == (is_on, is_on)


def test_lists_are_split_and_empty_items_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", " a, b ,,a,")
    monkeypatch.setenv("ADMIN_API_KEYS", ",")
    monkeypatch.setenv("OS_CREDITS_PROJECT_WHITELIST", "p 1; p,2 ;")
    settings = Settings()
    assert settings.client_keys == {"a", "b"}
    assert settings.admin_keys == set()
    assert settings.whitelist == frozenset({"p 1", "p,2"})


@pytest.mark.parametrize(
    ("networks", "dev", "open_to"),
    [("", "no", []), ("", "yes", ["127.0.0.1"]), ("10.1.0.0/16", "no", ["10.1.2.3"]), ("10.1.0.0/16", "yes", BOTH)],
)
def test_webhooks_reach_networks_that_are_allowed(
    monkeypatch: pytest.MonkeyPatch, networks: str, dev: str, open_to: list[str]
) -> None:
    monkeypatch.setenv("TALLY_WEBHOOK_NETWORKS", networks)
    monkeypatch.setenv("TALLY_DEV", dev)
    territory = Settings().webhook_territory
    for address in (*BOTH, "10.2.0.1", "169.254.169.254"):
        with nullcontext() if address in open_to else pytest.raises(Forbidden):
            territory.check(ip_address(address), is_plain=True)


def test_settings_do_not_change_once_they_are_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 9000  # type: ignore[misc]


def test_a_laptop_keeps_its_books_with_its_users_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_data_dir() == tmp_path / ".local" / "share" / "tallystick"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_data_dir() == tmp_path / "data" / "tallystick"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_data_dir() == Path("/var/lib/tallystick")


@pytest.mark.parametrize(
    ("environment", "cluster"),
    [
        ({}, None),
        ({"TIGERBEETLE_PORT": "3001", "TIGERBEETLE_CLUSTER_ID": "7"}, None),
        ({"TIGERBEETLE_HOST": "localhost"}, (0, "localhost:3000")),
        ({"TIGERBEETLE_HOST": "[::1]", "TIGERBEETLE_PORT": "3001"}, (0, "[::1]:3001")),
        ({"TIGERBEETLE_HOST": "a", "TIGERBEETLE_PORT": "3001", "TIGERBEETLE_CLUSTER_ID": "7"}, (7, "a:3001")),
        ({"TIGERBEETLE_HOST": "a", "TALLY_LEDGER": "postgres"}, None),
        ({"TIGERBEETLE_HOST": "a", "TALLY_LEDGER": "tigerbeetle://2@b:1,c:2"}, (2, "b:1,c:2")),
    ],
)
def test_tigerbeetle_is_chosen_by_name_only(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], cluster: tuple[int, str] | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings().tigerbeetle == cluster
