"""Faust's credentials, made of a login that is asked again at every connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from faust.auth import SASLCredentials, SSLCredentials

from sf_healer.adapters.login import Login, follow

if TYPE_CHECKING:
    from aiokafka.client import AIOKafkaClient
    from faust.types.auth import CredentialsT


class SASL(SASLCredentials):
    """A login with user and password; it never goes without TLS."""

    def __init__(self, login: Login) -> None:
        self.login = login
        options = login.options()
        super().__init__(
            username=options["sasl_plain_username"],
            password=options["sasl_plain_password"],
            mechanism=options["sasl_mechanism"],
            ssl_context=options["ssl_context"],
        )


class TLS(SSLCredentials):
    """TLS alone."""

    def __init__(self, login: Login) -> None:
        self.login = login
        super().__init__(context=login.options()["ssl_context"])


def credentials(login: Login) -> CredentialsT | None:
    """Give Faust the same way in that every other client of ours has; raises SettingsError as `Login.options`."""
    match login.options()["security_protocol"]:
        case "SASL_SSL":
            return SASL(login)
        case "SSL":
            return TLS(login)
        case _:
            return None


def follow_credentials(client: AIOKafkaClient, given: CredentialsT | None) -> None:
    """Have a client that Faust made ask the login of its credentials, if they have one."""
    if isinstance(given, SASL | TLS):
        follow(client, given.login)
