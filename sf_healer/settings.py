"""Settings: everything a person may set, read once from the environment into one frozen object.

Each field below carries its own documentation and limits; `docs/settings.md`, `sf-healer settings` and every
error message are made from them. Thresholds of verdicts are no settings: they live in the policy file.
"""

import math
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

PREFIX = "SF_HEALER_"
MASK = "********"

#: Variables of our prefix that are no settings: the tests' captures, the lab's cache, the worker that commands ask.
#: A worker started from a shell that has them must not take them for a mistake.
READ_ELSEWHERE = frozenset({"SF_HEALER_CAPTURES", "SF_HEALER_LAB_CACHE", "SF_HEALER_URL"})

_KAFKA_SCHEME = "kafka://"
_DEFAULT_KAFKA_PORT = 9092
_LEAST_FEED_GAP_SECONDS = 10.0
_MARKS_IN_A_FEED_GAP = 4  # watermarks this many marks apart are a gap: one is missing (docs/decisions/0031)
_FEWEST_MARKS_IN_A_FEED_GAP = 3
_HEARTBEATS_IN_A_SESSION = 3  # Kafka's own advice for heartbeat.interval.ms
# kubelet adds these for every Service of the namespace, and a Service called sf-healer* shares our prefix.
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
_SERVICE_LINK_VALUE = re.compile(r"^(tcp|udp|sctp)://")


class Mode(StrEnum):
    """Whether decisions are carried out."""

    OBSERVE = "observe"
    HEAL = "heal"


class Role(StrEnum):
    """Which Faust apps a worker runs."""

    ALL = "all"
    DETECTOR = "detector"
    ACTUATOR = "actuator"


class Identity(StrEnum):
    """How a report finds its Job."""

    CLUSTER = "cluster"
    CONVENTION = "convention"


class Stores(StrEnum):
    """Where Faust keeps tables between changelog and memory."""

    ROCKSDB = "rocksdb"
    MEMORY = "memory"


class LogLevel(StrEnum):
    """How much the logs say."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class SaslMechanism(StrEnum):
    """How the broker checks the password."""

    SCRAM_SHA_512 = "SCRAM-SHA-512"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    PLAIN = "PLAIN"


class NotifyFormat(StrEnum):
    """What a webhook is sent."""

    JSON = "json"
    SLACK = "slack"


class NotifyOn(StrEnum):
    """What a webhook is told of."""

    RESTARTED = "restarted"
    FAILED = "failed"
    REFUSED = "refused"  # for a reason that does not pass by itself
    QUARANTINED = "quarantined"
    STORM = "storm"
    WOULD_RESTART = "would_restart"  # mode = observe


class SettingsError(ValueError):
    """A setting that cannot be used; `name` is the environment variable, `message` says why."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message


_TOPIC = r"^[a-zA-Z0-9._-]{1,249}$"
DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
_KINDS = rf"^({'|'.join(NotifyOn)})(,({'|'.join(NotifyOn)}))*$"
_TEXT_WANTED = {
    _KINDS: f"a comma-separated list of {', '.join(NotifyOn)}",
    _TOPIC: "a topic name (letters, digits, dot, underscore, hyphen)",
    DNS_LABEL: "a DNS label (lower-case letters, digits, hyphen; at most 63)",
    "url": "a URL",
    "file": "a path to a file",
    "kubeconfig": "a path to a file",
    "dir": "a path to a directory",
}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What one process was told; times are seconds."""

    broker_url: Annotated[str, Meta(description="Kafka brokers, `kafka://host:port`, comma-separated.")] = (
        "kafka://127.0.0.1:9092"
    )
    namespace: Annotated[str, Meta(pattern=DNS_LABEL, description="Namespace whose Jobs are watched.")] = "stf"
    mode: Annotated[
        Mode, Meta(description="`observe` decides and reports everything and touches nothing; `heal` acts.")
    ] = Mode.OBSERVE
    role: Annotated[
        Role,
        Meta(description="Which apps this worker runs; `all` is both, each with its own consumer group."),
    ] = Role.ALL
    policy_file: (
        Annotated[
            str, Meta(description="TOML file of policies, followed while the worker runs; without it the shipped one.")
        ]
        | None
    ) = None
    identity: Annotated[
        Identity,
        Meta(description="`cluster` names Jobs by the live Jobs' env; `convention` by the naming rule alone."),
    ] = Identity.CLUSTER
    partitions: Annotated[
        int,
        Meta(ge=1, le=1000, description="Partitions of the evidence topic; fixed once state exists."),
    ] = 6
    mark_interval_seconds: Annotated[
        float, Meta(ge=0.05, le=60, description="How often the telemetry agent proves how far it has read.")
    ] = 1.0
    sweep_window_seconds: Annotated[
        float, Meta(ge=0.05, le=300, description="Width of the windows in which Jobs are judged together.")
    ] = 5.0
    feed_gap_seconds: Annotated[
        float,
        Meta(
            ge=0,
            description="Watermarks further apart than this are a feed gap: its length is nobody's silence.",
            extra={"default": f"{_MARKS_IN_A_FEED_GAP} x MARK_INTERVAL_SECONDS, at least {_LEAST_FEED_GAP_SECONDS:g}"},
        ),
    ] = 0.0
    source_topic: Annotated[str, Meta(pattern=_TOPIC, description="The platform's topic of reports; read only.")] = (
        "queue-events"
    )
    control_topic: Annotated[
        str, Meta(pattern=_TOPIC, description="The platform's topic of stop commands; read only.")
    ] = "queue-control"
    replication_factor: (
        Annotated[
            int,
            Meta(
                ge=1,
                le=32767,
                description="Replicas of every topic of ours; min ISR is 2 from three replicas on.",
                extra={"default": "3, or all brokers where there are fewer"},
            ),
        ]
        | None
    ) = None
    web_host: Annotated[str, Meta(min_length=1, description="Address the web views listen on.")] = "127.0.0.1"
    web_port: Annotated[
        int,
        Meta(ge=1, le=65534, description="Port of the detector's views; the actuator's are one above it."),
    ] = 6066
    web_advertised_url: (
        Annotated[
            str,
            Meta(
                description="Where other workers reach this one's views (a table key may live there).",
                extra={"default": "http://WEB_HOST:WEB_PORT"},
            ),
        ]
        | None
    ) = None
    data_dir: Annotated[
        str,
        Meta(
            min_length=1,
            description="Directory of one worker's table stores and of its name in its groups; a cache, the changelog "
            "is the truth. A worker restarted with the same directory rejoins at once instead of waiting for its old "
            "session to expire.",
        ),
    ] = "sf-healer-data"
    stores: Annotated[Stores, Meta(description="Where the tables' contents are kept.")] = Stores.ROCKSDB
    kubeconfig: (
        Annotated[
            str,
            Meta(
                description="Kubeconfig file.",
                extra={"default": "the pod's service account, else KUBECONFIG or ~/.kube/config"},
            ),
        ]
        | None
    ) = None
    sasl_username: (
        Annotated[
            str,
            Meta(description="SASL user; setting it means SASL_SSL, with CA_FILE or the system's CAs."),
        ]
        | None
    ) = None
    sasl_password: Annotated[str, Meta(description="Password of SASL_USERNAME.", extra={"secret": True})] | None = None
    sasl_username_file: (
        Annotated[str, Meta(description="File that holds the SASL user; read again at every new connection.")] | None
    ) = None
    sasl_password_file: (
        Annotated[str, Meta(description="File that holds the password; read again at every new connection.")] | None
    ) = None
    sasl_mechanism: Annotated[SaslMechanism, Meta(description="SASL mechanism; read only with SASL_USERNAME.")] = (
        SaslMechanism.SCRAM_SHA_512
    )
    ca_file: (
        Annotated[
            str,
            Meta(
                description="PEM file of the CA that signed the brokers' certificates; means TLS. "
                "Read again at every new connection."
            ),
        ]
        | None
    ) = None
    broker_session_timeout_seconds: Annotated[
        float,
        # Longer than the ~9 s in which a three-broker cluster notices a dead broker: else the death of a
        # broker throws the workers out of their group as well.
        Meta(ge=1, le=300, description="A worker unheard for this long loses its partitions."),
    ] = 30.0
    broker_heartbeat_seconds: Annotated[
        float, Meta(ge=0.1, le=100, description="How often a worker tells its group that it lives.")
    ] = 3.0
    notify_url: (
        Annotated[
            str,
            Meta(
                description="Webhook that is told what became of restarts; without one nobody is.",
                extra={"secret": True},
            ),
        ]
        | None
    ) = None
    notify_url_file: (
        Annotated[str, Meta(description="File that holds the webhook's URL; read again for every notification.")] | None
    ) = None
    notify_format: Annotated[
        NotifyFormat,
        Meta(description="`json` is the outcome and a text for people; `slack` a text as Slack's webhooks take it."),
    ] = NotifyFormat.JSON
    notify_on: Annotated[
        str,
        Meta(
            pattern=_KINDS,
            description="What the webhook is told of. `refused`: only for a reason that does not pass by itself.",
        ),
    ] = "restarted,failed,refused,quarantined,storm"
    demo_accept_create_time: Annotated[
        bool,
        Meta(description="Act in heal mode on a broker that ignores LogAppendTime; for the demo's broker only."),
    ] = False
    log_level: Annotated[LogLevel, Meta(description="How much the logs say.")] = LogLevel.INFO

    @property
    def logs_in(self) -> bool:
        """Whether a client says who it is."""
        return bool(self.sasl_username or self.sasl_username_file)

    @property
    def notifies(self) -> bool:
        """Whether there is a webhook to tell."""
        return bool(self.notify_url or self.notify_url_file)

    @property
    def notify_kinds(self) -> frozenset[NotifyOn]:
        """Give what `notify_on` names."""
        return frozenset(NotifyOn(kind) for kind in self.notify_on.split(","))

    @property
    def bootstrap_servers(self) -> tuple[str, ...]:
        """Give `host:port` of each broker of `broker_url`."""
        return bootstrap_servers(self.broker_url.removeprefix(_KAFKA_SCHEME))

    def __post_init__(self) -> None:
        if self.feed_gap_seconds == 0.0:
            derived = max(_LEAST_FEED_GAP_SECONDS, _MARKS_IN_A_FEED_GAP * self.mark_interval_seconds)
            msgspec.structs.force_setattr(self, "feed_gap_seconds", derived)

    def shown(self) -> dict[str, str | int | float | bool | None]:
        """Give every setting under its environment name, secrets masked."""
        return {
            field.name: MASK if field.secret and value is not None else value
            for field in FIELDS
            for value in [getattr(self, field.attribute)]
        }

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={value}' for name, value in self.shown().items())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        # msgspec's own, by which rich draws tracebacks, knows of no secrets
        return list(self.shown().items())


class Field(msgspec.Struct, frozen=True):
    """One row of the table of settings."""

    attribute: str
    name: str  # of the environment variable
    type: Any  # what msgspec converts to
    wanted: str  # the values it takes, in words
    default: str  # in words
    description: str
    secret: bool


def load(environ: Mapping[str, str]) -> Settings:
    """Read the settings from an environment; an empty variable counts as not set.

    Raises SettingsError naming the first setting that is unknown, malformed, or contradicts another. Files
    are looked for, not read; nothing connects.
    """
    given = {name: value for name, value in sorted(environ.items()) if name.startswith(PREFIX)}
    known = {field.name: field for field in FIELDS}
    for name, value in given.items():
        if name not in known and name not in READ_ELSEWHERE and not _is_service_link(name, value):
            raise SettingsError(name, _unknown(name, known))
    settings = Settings(
        **{field.attribute: _converted(field, given[field.name]) for field in FIELDS if given.get(field.name, "") != ""}
    )
    for attribute, problem in _contradictions(settings):
        raise SettingsError(_env_name(attribute), problem)
    return settings


def markdown() -> str:
    """Write the table of settings that docs/settings.md holds."""
    rows = "".join(f"| `{field.name}` | {field.wanted} | {field.default} | {field.description} |\n" for field in FIELDS)
    return (
        "# Settings\n\n"
        "Read once from the environment when a process starts; an empty variable counts as not set.\n"
        "An unknown `SF_HEALER_*`, a malformed value or a contradiction ends the process with exit code 2\n"
        "before anything connects. `sf-healer settings` shows what a process would use, secrets masked.\n\n"
        "This page is made from the code: `sf-healer settings --markdown > docs/settings.md`.\n\n"
        "| setting | value | default | meaning |\n|---|---|---|---|\n" + rows
    )


def bootstrap_servers(text: str) -> tuple[str, ...]:
    """Read `host:port,host:port` into its parts, with Kafka's port where none is given.

    Raises ValueError naming the part that is no address.
    """
    return tuple(_address(part.strip()) for part in text.split(","))


def _address(part: str) -> str:
    split = urlsplit(f"//{part}")
    if split.username is not None:
        raise ValueError(f"credentials belong into {PREFIX}SASL_USERNAME and {PREFIX}SASL_PASSWORD")
    try:
        port = split.port or _DEFAULT_KAFKA_PORT
    except ValueError:
        raise ValueError(f"{_without_login(part)!r} has no valid port") from None
    if not split.hostname or split.path or split.query or split.fragment:
        raise ValueError(f"{_without_login(part)!r} is not host:port")
    host = f"[{split.hostname}]" if ":" in split.hostname else split.hostname
    return f"{host}:{port}"


def _without_login(text: str) -> str:
    """Mask what stands before an @: it may be a password."""
    return f"{MASK}@{text.rpartition('@')[2]}" if "@" in text else text


def _converted(field: Field, value: str) -> Any:
    """Convert one variable; raises SettingsError that names setting, value and what it should be."""
    try:
        converted = msgspec.convert(value.strip(), field.type, strict=False)
        if isinstance(converted, float) and not math.isfinite(converted):
            raise ValueError("not a finite number")  # noqa: TRY301  same message as any other wrong number
    except ValueError:
        told = MASK if field.secret else repr(value)
        hint = (
            "; Kubernetes sets this for a Service of that name: set enableServiceLinks: false in the pod"
            if _SERVICE_LINK_VALUE.match(value)
            else ""
        )
        raise SettingsError(field.name, f"{told} is not {field.wanted}{hint}") from None
    return converted


def _contradictions(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield what no single value shows: the setting to change, and why."""
    yield from _address_problems(settings)
    yield from _file_problems(settings)
    if settings.feed_gap_seconds < _FEWEST_MARKS_IN_A_FEED_GAP * settings.mark_interval_seconds:
        least = f"{_FEWEST_MARKS_IN_A_FEED_GAP} x MARK_INTERVAL_SECONDS"
        yield "feed_gap_seconds", f"must be {least} or more: else a late mark is a gap"
    if settings.broker_heartbeat_seconds * _HEARTBEATS_IN_A_SESSION > settings.broker_session_timeout_seconds:
        yield "broker_heartbeat_seconds", "must be a third of BROKER_SESSION_TIMEOUT_SECONDS or less"
    yield from _login_problems(settings)
    yield from _notify_problems(settings)
    if settings.mode is Mode.HEAL and settings.identity is Identity.CONVENTION:
        yield "identity", "convention works without a cluster, and heal mode needs one"


def _login_problems(settings: Settings) -> Iterator[tuple[str, str]]:
    if settings.sasl_username and settings.sasl_username_file:
        yield "sasl_username_file", "must not be set beside SASL_USERNAME"
    if settings.sasl_password and settings.sasl_password_file:
        yield "sasl_password_file", "must not be set beside SASL_PASSWORD"
    has_password = bool(settings.sasl_password or settings.sasl_password_file)
    if settings.logs_in and not has_password:
        yield "sasl_password", "must be set when SASL_USERNAME is (or SASL_PASSWORD_FILE)"
    if has_password and not settings.logs_in:
        yield "sasl_username", "must be set when SASL_PASSWORD is (or SASL_USERNAME_FILE)"


def _notify_problems(settings: Settings) -> Iterator[tuple[str, str]]:
    if settings.notify_url and settings.notify_url_file:
        yield "notify_url_file", "must not be set beside NOTIFY_URL"
    if settings.notify_url and not is_http_url(settings.notify_url):
        yield "notify_url", "is not an http:// or https:// URL"  # it is a secret, and not repeated


def _address_problems(settings: Settings) -> Iterator[tuple[str, str]]:
    if not settings.broker_url.startswith(_KAFKA_SCHEME):
        yield "broker_url", f"{_without_login(settings.broker_url)!r} does not start with {_KAFKA_SCHEME}"
        return
    try:
        _ = settings.bootstrap_servers
    except ValueError as problem:
        yield "broker_url", str(problem)
    if settings.web_advertised_url is not None and not is_http_url(settings.web_advertised_url):
        yield "web_advertised_url", f"{settings.web_advertised_url!r} is not an http:// or https:// URL"


def _file_problems(settings: Settings) -> Iterator[tuple[str, str]]:
    # Not the policy file: it may go while workers run, and who asks one why needs no policies. A worker reads it first.
    for attribute in (
        "kubeconfig",
        "sasl_username_file",
        "sasl_password_file",
        "ca_file",
        "notify_url_file",
    ):
        path = getattr(settings, attribute)
        if path is not None and not Path(path).is_file():
            yield attribute, f"{path!r} is not a file"


def address_of(host: str, port: int) -> str:
    """Give the http:// address of a host, which may be an IPv6 address with or without brackets."""
    return f"http://[{host}]:{port}" if ":" in host and not host.startswith("[") else f"http://{host}:{port}"


def is_http_url(text: str) -> bool:
    """Return whether a text is an address that HTTP can be spoken to."""
    try:
        split = urlsplit(text)
        return split.scheme in {"http", "https"} and bool(split.hostname) and split.port != 0
    except ValueError:
        return False


def _unknown(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"unknown setting; did you mean {close[0]}?" if close else "unknown setting; see sf-healer settings"


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.search(name) or (name.endswith("_PORT") and _SERVICE_LINK_VALUE.match(value)))


def _env_name(attribute: str) -> str:
    return PREFIX + attribute.upper()


def _field(attribute: str, annotation: Any, default: object) -> Field:
    # What may be None is written `Annotated[X, Meta] | None`: no text of a variable ever means None.
    limited = annotation if typing.get_origin(annotation) is Annotated else typing.get_args(annotation)[0]
    kind, meta = typing.get_args(limited)
    extra = meta.extra or {}
    return Field(
        attribute=attribute,
        name=_env_name(attribute),
        type=limited,
        wanted=_wanted(attribute, kind, meta),
        default=extra.get("default") or ("—" if default is None else f"`{_plain(default)}`"),
        description=meta.description,
        secret=extra.get("secret", False),
    )


def _wanted(attribute: str, kind: type, meta: Meta) -> str:
    """Say in words what a setting takes; the same words stand in the documentation and in the errors."""
    if issubclass(kind, StrEnum):
        return "one of " + ", ".join(kind)
    if kind is bool:
        return "true or false"
    if kind in {int, float}:
        noun = "a whole number" if kind is int else "a number"
        unit = " of seconds" if attribute.endswith("_seconds") else ""
        limits = [f"at least {meta.ge:g}"] if meta.ge is not None else []
        limits += [f"at most {meta.le:g}"] if meta.le is not None else []
        return f"{noun}{unit}{', ' if limits else ''}{' and '.join(limits)}"
    return _TEXT_WANTED.get(meta.pattern or attribute.rpartition("_")[2], "text")


def _plain(default: object) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default).lower() if default is False else str(default)


_HINTS = typing.get_type_hints(Settings, include_extras=True)
FIELDS: Sequence[Field] = tuple(
    _field(field.name, _HINTS[field.name], field.default) for field in msgspec.structs.fields(Settings)
)
