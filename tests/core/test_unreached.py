"""Why there is no connection, in words: what the clients themselves raise, read where it happens."""

import errno
import socket
import ssl
from pathlib import Path

import pytest

from sf_healer.adapters.cluster import ApiFailure, Cluster
from sf_healer.adapters.http import WorkerUnreachableError, get_json
from sf_healer.adapters.kafka import in_words
from sf_healer.adapters.unreached import why_unreached

WHERE = "db.example:1"
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
UNTRUSTED = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed")
UNTRUSTED.verify_message = "self-signed certificate"
KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {}}]
current-context: c
"""


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (REFUSED, "nothing listens at db.example:1"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "no host is called db.example"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "the name db.example cannot be looked up now"),
        (TimeoutError("timed out"), "no answer from db.example:1"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "no way to db.example:1 (no route to host)"),
        (UNTRUSTED, "the certificate of db.example:1 is not trusted (self-signed certificate)"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "db.example:1 closed the connection"),
        (RuntimeError("it hung up"), "db.example:1: it hung up"),
    ],
)
def test_the_reason_is_found_beneath_what_clients_make_of_it(problem, told):
    wrapped = OSError("_Connection(host='db.example', port=1): [Errno 7] something")
    wrapped.__cause__ = problem
    assert why_unreached(problem, WHERE) == told
    if isinstance(problem, OSError):
        assert why_unreached(wrapped, WHERE) == told


def test_a_worker_that_is_not_there_is_told_without_numbers():
    with pytest.raises(WorkerUnreachableError, match=r"^nothing listens at 127\.0\.0\.1:1$"):
        get_json("http://127.0.0.1:1/jobs/")


def test_a_cluster_that_is_not_there_is_told_without_numbers(tmp_path: Path):
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    cluster = Cluster.connect(namespace="stf", kubeconfig=str(tmp_path / "kubeconfig"))
    answer = cluster.annotate_job("stf", "a", {"x": None})
    assert isinstance(answer, ApiFailure)
    assert answer.message == "nothing listens at 127.0.0.1:1"


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (REFUSED, "connection refused"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name or service not known"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "no route to host"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1)"), "connection refused"),
    ],
)
def test_a_broker_that_is_not_there_is_told_without_numbers(problem, told):
    assert in_words(problem) == told
