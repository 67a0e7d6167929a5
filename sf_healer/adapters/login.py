"""How a client gets into Kafka: TLS and SASL, and what stands in files read anew at every connection.

A mounted Secret is exchanged while we run, and a broker asks for the new password at the next connection; aiokafka
logs in with what a client was made with. Nothing here connects.
"""

import ssl
from typing import Any

import structlog
from aiokafka.client import AIOKafkaClient

from sf_healer.adapters.files import given, text_of
from sf_healer.settings import PREFIX, Settings, SettingsError

log = structlog.get_logger(__name__)


class Login:
    """What the settings, and the files that they name, say about getting in."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._last: dict[str, Any] | None = None
        self._certificates = ""
        self._context: ssl.SSLContext | None = None

    def options(self) -> dict[str, Any]:
        """Give what every aiokafka client needs to get in: protocol, TLS, SASL.

        SASL always goes over TLS. Raises SettingsError for a file that cannot be used.
        """
        settings = self._settings
        options: dict[str, Any] = {"security_protocol": "PLAINTEXT"}
        if settings.logs_in or settings.ca_file:
            options |= {"security_protocol": "SSL", "ssl_context": self._trust()}
        if settings.logs_in:
            options |= {
                "security_protocol": "SASL_SSL",
                "sasl_mechanism": settings.sasl_mechanism.value,
                "sasl_plain_username": given("SASL_USERNAME", settings.sasl_username, settings.sasl_username_file),
                "sasl_plain_password": given("SASL_PASSWORD", settings.sasl_password, settings.sasl_password_file),
            }
        if self._last is not None and options != self._last:
            log.info("kafka_login_changed", user=options.get("sasl_plain_username"))
        self._last = options
        return options

    def latest(self) -> dict[str, Any]:
        """Give the same, or what it was before where a file cannot be used now: it may be being written."""
        try:
            return self.options()
        except SettingsError as problem:
            if self._last is None:
                raise
            log.warning("kafka_login_unreadable", reason=str(problem))
            return self._last

    def _trust(self) -> ssl.SSLContext:
        """Give the TLS context; recreated when other certificates are in the file, else always the same."""
        name, path = f"{PREFIX}CA_FILE", self._settings.ca_file
        certificates = text_of(name, path) if path is not None else ""
        if self._context is None or certificates != self._certificates:
            try:
                self._context = ssl.create_default_context(cadata=certificates or None)
            except (ssl.SSLError, ValueError) as problem:
                raise SettingsError(name, f"holds no PEM certificate ({problem})") from problem
            self._certificates = certificates
        return self._context


def follow(client: AIOKafkaClient, login: Login) -> None:
    """Have a client ask its login at every connection it makes, instead of keeping what it was made with.

    Raises SettingsError where the login cannot be used now.
    """
    login.options()
    client.__class__ = _Following
    client.login = login


def _asked(option: str) -> Any:
    return property(lambda client: client.login.latest().get(option))


class _Following(AIOKafkaClient):  # type: ignore[misc]  # aiokafka is untyped
    """aiokafka's client, whose only use of these attributes is to connect with them."""

    login: Login
    _ssl_context = _asked("ssl_context")
    _sasl_plain_username = _asked("sasl_plain_username")
    _sasl_plain_password = _asked("sasl_plain_password")
