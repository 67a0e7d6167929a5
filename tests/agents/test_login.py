"""How clients get in: what stands in files is read at every connection, and what cannot be read is as it was."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from aiokafka.client import AIOKafkaClient

from sf_healer.adapters.login import Login, follow
from sf_healer.settings import Settings, SettingsError
from sf_healer.transport.login import SASL, TLS, credentials
from tests.lab.kafka.security import Authority

if TYPE_CHECKING:
    import ssl
    from pathlib import Path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    made = {"user": tmp_path / "user", "password": tmp_path / "password"}
    made["user"].write_text("healer\n")
    made["password"].write_text("first\n")
    return made


@pytest.fixture
def settings(files: dict[str, Path]) -> Settings:
    return Settings(sasl_username_file=str(files["user"]), sasl_password_file=str(files["password"]))


async def client_of(login: Login) -> AIOKafkaClient:
    client = AIOKafkaClient(**login.options())
    follow(client, login)
    return client


def login_of(client: AIOKafkaClient) -> tuple[str, str]:
    return client._sasl_plain_username, client._sasl_plain_password


async def test_a_client_logs_in_with_what_the_files_hold_when_it_connects(settings: Settings, files: dict[str, Path]):
    client = await client_of(Login(settings))
    assert login_of(client) == ("healer", "first")
    files["user"].write_text("other")
    files["password"].write_text("second\r\n")
    assert login_of(client) == ("other", "second")


async def test_a_file_that_is_gone_or_empty_for_a_moment_leaves_the_login_as_it_was(
    settings: Settings, files: dict[str, Path]
):
    client = await client_of(Login(settings))
    files["password"].unlink()
    assert login_of(client) == ("healer", "first")
    files["password"].write_text("")
    assert login_of(client) == ("healer", "first")
    files["password"].write_text("second")
    assert login_of(client) == ("healer", "second")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read: No such file"),
        (b"\n", "is empty"),
        (b"hunter2\xff", "is no UTF-8 text"),
    ],
)
def test_a_file_that_cannot_be_used_at_first_is_a_wrong_setting_that_is_not_quoted(
    settings: Settings, files: dict[str, Path], content: bytes | None, told: str
):
    files["password"].unlink()
    if content is not None:
        files["password"].write_bytes(content)
    with pytest.raises(SettingsError, match=told) as caught:
        Login(settings).options()
    assert caught.value.name == "SF_HEALER_SASL_PASSWORD_FILE"
    assert "hunter2" not in str(caught.value)


async def test_new_certificates_are_trusted_alone_and_the_same_ones_make_no_new_context(tmp_path: Path):
    first, second = Authority(tmp_path, "first"), Authority(tmp_path, "second")
    ca_file = tmp_path / "ca.crt"
    shutil.copy(first.certificate, ca_file)
    client = await client_of(Login(Settings(ca_file=str(ca_file))))
    before = client._ssl_context
    assert subjects(before) == ["first"]
    assert client._ssl_context is before
    shutil.copy(second.certificate, ca_file)
    assert subjects(client._ssl_context) == ["second"]
    ca_file.write_text("half a certificate")
    assert subjects(client._ssl_context) == ["second"]


def subjects(context: ssl.SSLContext) -> list[str]:
    return [dict(pair[0] for pair in found["subject"])["commonName"] for found in context.get_ca_certs()]


def test_faust_gets_the_same_login(settings: Settings, tmp_path: Path):
    sasl = credentials(Login(settings))
    assert isinstance(sasl, SASL)
    assert (sasl.username, sasl.password, sasl.protocol.value) == ("healer", "first", "SASL_SSL")
    assert "first" not in repr(sasl)
    tls = credentials(Login(Settings(ca_file=str(Authority(tmp_path, "ca").certificate))))
    assert isinstance(tls, TLS)
    assert credentials(Login(Settings())) is None
