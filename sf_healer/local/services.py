"""What each StreamForge service says and when: its dialect, vocabulary, cadence and endings, as a table.

Source: every service's own code (StreamForge at 01075c8, 2025-09-01), run with recorders in the place of its
clients. Only facts live here; reports.py turns them into messages.
"""

from enum import StrEnum

import msgspec


class Dialect(StrEnum):
    """The shapes in which reports come; all but PYTHON_REPR are JSON."""

    STATUS = "A"  # event and status, epoch time
    STATUS_WITHOUT_ARANGO = "A2"
    STATUS_DUMMY = "A3"  # its pong is dialect D
    MONOTONIC = "B"  # no queue id, a clock that starts with the machine
    TELEMETRY_ID = "C"
    PYTHON_REPR = "E"
    DOCS_EVENT = "docs-1"  # no producer; written from the documentation, no code sends it
    DOCS_STATUS = "docs-2"  # likewise


class Line(msgspec.Struct, frozen=True):
    """One thing a service says. `{n}` in the text is its counter, `{step}` what it adds to it at a time."""

    kind: str
    text: str = ""
    finished: bool = False
    counts: bool = False  # records_written is the counter; else 0
    records: int = 0  # records_written where it is neither
    error_message: str | None = None


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A service of the platform, run under a target that the launcher knows."""

    name: str
    target: str
    type_: str  # a usual TYPE of its requests
    dialect: Dialect
    started: Line
    opening: Line | None = None  # the first `loading`, before any data is seen
    loading: Line | None = None
    step: int = 100  # records from one `loading` to the next
    gap_seconds: float = 15.0  # between two of them, typical; nothing but the data limits it
    steady: bool = False  # sent by a timer: gaps do not vary
    bad_record: tuple[Line, ...] = ()  # reported one by one, and the service goes on
    fatal: tuple[Line, ...] = ()
    finish: tuple[Line, ...] = ()  # empty: it never ends by itself
    stop: tuple[Line, ...] = ()  # on a stop command
    terminate: tuple[Line, ...] = ()  # on SIGTERM while data flows; empty: it ignores SIGTERM, being process 1
    terminates_idle: bool = False  # it does so without data too; others then hang until SIGKILL
    answers_ping: bool = False
    stays_up: bool = False  # the process lives on after its last word, so the Job stays active
    exit_code_after_fatal: int = 0
    speaks_as_shipped: bool = True  # else only once missing names are supplied: as shipped it never says a word


_BROKEN_JSON = 'Failed to decode JSON: b\'{"symbol": "BTCUSDT", "price": 673\''
_NO_DATABASE = "[HTTP 503][ERR 503] service unavailable"
_NO_KAFKA = "KafkaConnectionError: Connection to broker lost"
_NO_NAME = "[Errno -3] Temporary failure in name resolution"
_STOPPED = Line("interrupted", "Stopped by user command", finished=True)


class _Words(msgspec.Struct, frozen=True):
    """Where the consumers' texts differ."""

    started: str
    opening: str
    loading: str
    json: str
    database: str
    cancelled: str
    finished: str
    fatal: str


def _consumer(
    name: str,
    target: str,
    type_: str,
    words: _Words,
    *,
    stays_up: bool = False,
    speaks_as_shipped: bool = True,
) -> Service:
    finished = Line("finished", words.finished + " Total records written: {n}", finished=True, counts=True)
    return Service(
        name=name,
        target=target,
        type_=type_,
        dialect=Dialect.STATUS,
        started=Line("started", words.started),
        opening=Line("loading", words.opening),
        loading=Line("loading", words.loading, counts=True),
        gap_seconds=25.0,
        bad_record=(
            Line("error", words.json, error_message=_BROKEN_JSON),
            Line("error", words.database, error_message=_NO_DATABASE),
        ),
        fatal=(Line("error", words.fatal, error_message=_NO_KAFKA), finished),
        stop=(_STOPPED, Line("interrupted", words.cancelled), finished),
        terminate=(finished,) if stays_up else (),
        stays_up=stays_up,
        speaks_as_shipped=speaks_as_shipped,
    )


def _loader_ws(name: str, type_: str, started: str, *, stays_up: bool = False) -> Service:
    finished = Line("finished", "Loader finished. Total records published: {n}", finished=True, counts=True)
    return Service(
        name=name,
        target="loader-ws",
        type_=type_,
        dialect=Dialect.STATUS_WITHOUT_ARANGO,
        started=Line("started", started),
        opening=Line("loading", "Loader started, connecting to WebSocket."),
        loading=Line("loading", "Fetched {step} and published {step} records.", counts=True),
        gap_seconds=20.0,
        fatal=(Line("error", "Fatal loader error", error_message=_NO_NAME),),
        finish=(finished,),
        stop=(_STOPPED, Line("interrupted", "Loader task cancelled.")),
        terminate=(finished,) if stays_up else (),
        stays_up=stays_up,
        speaks_as_shipped=False,
    )


_CONSUMERS = (
    _consumer(
        "arango-connector",
        "arango-connector",
        "api_candles_5m",
        _Words(
            "Arango Connector consumer started",
            "Consumer started, processing data.",
            "Processed {step} records.",
            "JSON decode error",
            "Data processing error",
            "Consumer task cancelled.",
            "Consumer finished.",
            "Fatal consumer error",
        ),
    ),
    _consumer(
        "arango-candles",
        "arango-connector",
        "api_candles_1m",
        _Words(
            "Arango-candles consumer started",
            "Consumer started, processing data.",
            "Processed {step} records.",
            "JSON decode error",
            "Data processing error",
            "Consumer task cancelled.",
            "Consumer finished.",
            "Fatal consumer error",
        ),
    ),
    _consumer(
        "arango-trades",
        "arango-connector",
        "api_trades",
        _Words(
            "Arango Trades consumer started",
            "Consumer started, processing trade data.",
            "Processed {step} trade records.",
            "JSON decode error in trade consumer",
            "Trade data processing error",
            "Consumer task cancelled for trades.",
            "Consumer finished for trades.",
            "Fatal consumer error in trades",
        ),
    ),
    _consumer(
        "arango-graph-prep",
        "graph-builder",
        "gnn_graph",
        _Words(
            "Arango Graph Prep consumer started",
            "Consumer started, processing data for graph prep.",
            "Processed {step} records for graph prep.",
            "JSON decode error in graph prep",
            "Data processing error in graph prep",
            "Consumer task cancelled for graph prep.",
            "Consumer finished for graph prep.",
            "Fatal consumer error in graph prep",
        ),
    ),
    _consumer(
        "arango-orderbook",
        "arango-orderbook",
        "ws_depth",
        _Words(
            "Arango Orderbook consumer started",
            "Consumer started, processing order book data.",
            "Processed {step} order book records.",
            "JSON decode error in order book consumer",
            "Order book data processing error",
            "Consumer task cancelled for order book.",
            "Consumer finished for order book.",
            "Fatal consumer error in order book",
        ),
        stays_up=True,
    ),
    _consumer(
        "graph-builder",
        "graph-builder",
        "gnn_graph",
        _Words(
            "Graph Build consumer started",
            "Consumer started, processing data for graph building.",
            "Processed {step} records for graph building.",
            "JSON decode error in graph builder",
            "Data processing error in graph builder",
            "Graph builder task cancelled.",
            "Consumer finished for graph building.",
            "Fatal graph builder error",
        ),
        speaks_as_shipped=False,
    ),
)

_LOADER_API_CANDLES = Service(
    name="loader-api-candles",
    target="loader-producer",
    type_="api_candles_1m",
    dialect=Dialect.MONOTONIC,
    started=Line("started", "Loader API Candles started"),
    opening=Line("loading", "Loader started, fetching historical data."),
    loading=Line("loading", "Fetched {step} and published {step} records.", counts=True),
    step=1000,  # an HTTP batch
    gap_seconds=8.0,
    fatal=(Line("error", "Fatal loader error", counts=True, error_message="list index out of range"),),
    finish=(Line("finished", "Loader finished. Total records published: {n}", finished=True, counts=True),),
    stop=(_STOPPED, Line("interrupted", "Loader task cancelled.", counts=True)),
    speaks_as_shipped=False,
)

_LOADER_API_TRADES = Service(
    name="loader-api-trades",
    target="loader-producer",
    type_="api_trades",
    dialect=Dialect.STATUS,
    started=Line("started", "Loader API Trades started"),
    opening=Line("loading", "Loader started, fetching historical trade data."),
    loading=Line("loading", "Fetched {step} and published {step} records.", counts=True),
    step=1000,
    gap_seconds=6.0,
    fatal=(Line("error", "Fatal loader error", error_message="'p'"),),
    finish=(Line("finished", "Loader finished. Total records published: {n}", finished=True, counts=True),),
    stop=(_STOPPED, Line("interrupted", "Loader task cancelled.")),
    speaks_as_shipped=False,
)

_LOADED = Line("finished", "✅ Загрузка завершена", finished=True, counts=True)
_STOPPED_IN_RUSSIAN = "Остановлено пользователем"

_LOADER_PRODUCER = Service(
    name="loader-producer",
    target="loader-producer",
    type_="api_candles_5m",
    dialect=Dialect.STATUS,
    started=Line("started", "Loader started"),
    loading=Line("loading", counts=True),
    step=1000,
    gap_seconds=9.0,  # its TELEMETRY_INTERVAL is 5 s, and no chunk means no report
    fatal=(
        Line(
            "error",
            'Ошибка Binance API: 429 - {{"code":-1003,"msg":"Too many requests."}}',
            finished=True,
            counts=True,
        ),
        _LOADED,
    ),
    finish=(_LOADED,),
    stop=(
        Line("interrupted", _STOPPED_IN_RUSSIAN, finished=True),
        Line("interrupted", _STOPPED_IN_RUSSIAN, finished=True, counts=True),
    ),
    terminate=(Line("interrupted", _STOPPED_IN_RUSSIAN, finished=True, counts=True),),
    stays_up=True,
    speaks_as_shipped=False,
)

_DUMMY_END = Line("finished", "Микросервис завершил работу", finished=True, records=999)

_DUMMY = Service(
    name="dummy-service",
    target="loader-producer",
    type_="api_candles_5m",
    dialect=Dialect.STATUS_DUMMY,
    started=Line("started", "Микросервис запущен"),
    loading=Line("loading", "Загрузка продолжается, batch {batch}", counts=True),
    gap_seconds=10.0,
    steady=True,
    fatal=(
        Line(
            "error",
            "Ошибка тестовая: симулирован сбой",
            finished=True,
            error_message="Simulated failure triggered by --fail-after",
        ),
    ),
    finish=(_DUMMY_END,),
    stop=(Line("interrupted", "Получена команда остановки", finished=True), _DUMMY_END),
    terminate=(_DUMMY_END,),
    terminates_idle=True,
    answers_ping=True,
    exit_code_after_fatal=1,
    speaks_as_shipped=False,
)

# Ran only in parts: the texts of its progress beside an epoch's, and of its end, are our wording.
_GNN_TRAINER = Service(
    name="gnn-trainer",
    target="gnn-trainer",
    type_="gnn_train",
    dialect=Dialect.STATUS,
    started=Line("started", "GNN Trainer started"),
    opening=Line("loading", "Collecting data."),
    loading=Line("loading", "Epoch {batch} completed, loss: {loss}"),
    step=0,
    gap_seconds=120.0,
    fatal=(Line("error", "Fatal GNN trainer error", error_message="name 'os' is not defined"),),
    finish=(Line("finished", "Training finished."),),  # finished=false, read in its code
    speaks_as_shipped=False,
)

_VISUALIZER = Service(
    name="visualizer",
    target="visualizer",
    type_="graph_metrics_stream",
    dialect=Dialect.TELEMETRY_ID,
    started=Line("started", "Visualizer application started"),
    terminate=(Line("finished", "Visualizer application shut down", finished=True),),
    terminates_idle=True,
    finish=(Line("finished", "Visualizer application shut down", finished=True),),
    stays_up=True,
    speaks_as_shipped=False,  # its image starts no server; run under uvicorn it says these two words
)


def _described(name: str, dialect: Dialect) -> Service:
    """Make a service that speaks as a page of the documentation has it; no code does."""
    return Service(
        name=name,
        target="loader-ws",
        type_="ws_trades",
        dialect=dialect,
        started=Line("started", "Started"),
        opening=Line("loading", "Saved {n} records"),
        loading=Line("loading", "Saved {n} records", counts=True),
        gap_seconds=30.0,
        fatal=(Line("error", "Connection lost", counts=True, error_message="Connection lost"),),
        finish=(Line("finished", "Finished", finished=True, counts=True),),
        stop=(Line("interrupted", "Stopped", finished=True, counts=True),),
    )


SERVICES: dict[str, Service] = {
    service.name: service
    for service in (
        *_CONSUMERS,
        _LOADER_API_CANDLES,
        _LOADER_API_TRADES,
        _LOADER_PRODUCER,
        _loader_ws("loader-ws-orderbook", "ws_depth", "Loader WS Orderbook started", stays_up=True),
        _loader_ws("loader-ws-trades", "ws_trades", "Loader WS Trades started"),
        _loader_ws("loader-ws-candles", "ws_candles_1m", "Loader WS Candles started"),
        _DUMMY,
        _GNN_TRAINER,
        _VISUALIZER,
        _described("docs-1", Dialect.DOCS_EVENT),
        _described("docs-2", Dialect.DOCS_STATUS),
        _described("streamforge-utils", Dialect.PYTHON_REPR),
    )
}

CONSUMERS = frozenset(service.name for service in _CONSUMERS)

# The service that a target's default image runs; loader-ws and arango-orderbook have none, so a usual one.
SERVICE_OF_TARGET = {
    "loader-producer": "loader-producer",
    "arango-connector": "arango-connector",
    "graph-builder": "graph-builder",
    "gnn-trainer": "gnn-trainer",
    "visualizer": "visualizer",
    "loader-ws": "loader-ws-orderbook",
    "arango-orderbook": "arango-orderbook",
}
