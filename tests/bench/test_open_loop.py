"""The open loop against a server of the test's own: one outcome a request, and waits count from the intended send."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from bench.open_loop import Stream, _Loop
from bench.outcomes import BROKEN, LEFT, Outcomes
from bench.schedule import bursts, constant, phases, poisson

Answer = Callable[[bytes], bytes]


def ok(_: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextmanager
def server(answer: Answer, delay_s: float = 0.0) -> Iterator[int]:
    """Answers each request on each connection after a delay, one connection a thread."""

    def serve(connection: socket.socket) -> None:
        with connection:
            received = b""
            while True:
                try:
                    data = connection.recv(65536)
                except OSError:
                    return
                if not data:
                    return
                received += data
                head, _, rest = received.partition(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                if len(rest) >= length:
                    received = rest[length:]
                    time.sleep(delay_s)
                    said = answer(head)
                    if not said:
                        return
                    try:
                        connection.sendall(said)
                    except OSError:
                        return

    listener = socket.create_server(("127.0.0.1", 0), backlog=512)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def run(*streams: Stream) -> Outcomes:
    return Outcomes(_Loop(streams).run(), tuple(stream.name for stream in streams), 0.0)


def test_every_intended_request_is_sent_and_answered() -> None:
    with server(ok) as port:
        outcomes = run(Stream("a", port, "/", [b"x", b"yy"], constant(400.0, 0.1)))
    assert outcomes.statuses() == {"200": 40}
    assert np.all(outcomes.latency_ms > 0)
    assert np.all(outcomes.lag_ms >= 0)


def test_waiting_for_a_stuck_server_counts_from_the_intended_send() -> None:
    """One connection, 50 ms an answer, a request each 10 ms: the fifth waits for the four before it."""
    with server(ok, delay_s=0.05) as port:
        outcomes = run(Stream("a", port, "/", [b"x"], constant(100.0, 0.05), connections=1))
    assert outcomes.statuses() == {"200": 5}
    latencies = outcomes.latency_ms
    assert np.all(latencies >= np.array([50, 90, 130, 170, 210]) - 1)
    assert np.all(np.diff(latencies) > 20)  # a closed loop would have shown 50 ms for each
    assert outcomes.lag_ms.max() > 150


def test_the_answers_status_and_retry_after_are_kept() -> None:
    answers = iter(
        [
            b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 4\r\nconnection: close\r\n\r\nlate",
            ok(b""),
        ]
    )
    with server(lambda _: next(answers)) as port:
        outcomes = run(Stream("a", port, "/", [b"x"], constant(50.0, 0.08), connections=1))
    assert outcomes.rows["status"].tolist() == [503, 503, 504, 200]
    assert outcomes.rows["retry_after"].tolist() == [True, False, False, False]


def test_a_connection_that_breaks_is_an_outcome_of_its_own() -> None:
    with server(lambda _: b"") as port:
        outcomes = run(Stream("a", port, "/", [b"x"], constant(50.0, 0.06)))
    assert outcomes.statuses() == {"connection broken": 3}


def test_nobody_listening_is_a_broken_connection() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        outcomes = run(Stream("a", probe.getsockname()[1], "/", [b"x"], constant(50.0, 0.06)))
    assert outcomes.rows["status"].tolist() == [BROKEN] * 3


def test_a_caller_leaves_when_it_was_told_to_and_the_others_stay() -> None:
    times = constant(50.0, 0.08)
    leaves = np.array([0.005, np.nan, 0.005, np.nan])
    with server(ok, delay_s=0.03) as port:
        outcomes = run(Stream("a", port, "/", [b"x"], times, leaves_s=leaves))
    assert outcomes.rows["status"].tolist() == [LEFT, 200, LEFT, 200]


def test_a_body_larger_than_the_sockets_buffer_arrives_whole() -> None:
    sizes: list[int] = []

    def measure(head: bytes) -> bytes:
        sizes.append(int(head.split(b"content-length: ")[1]))
        return ok(b"")

    with server(measure) as port:
        outcomes = run(Stream("a", port, "/", [bytes(1_000_000)], constant(50.0, 0.04)))
    assert outcomes.statuses() == {"200": 2}
    assert sizes == [1_000_000] * 2


def test_streams_keep_their_own_paths_headers_and_outcomes() -> None:
    seen: list[bytes] = []

    def note(head: bytes) -> bytes:
        seen.append(head)
        return ok(b"") if b"/one" in head else b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"

    with server(note) as port:
        outcomes = run(
            Stream("one", port, "/one", [b"x"], constant(100.0, 0.05), {"x-deadline-ms": "100"}),
            Stream("two", port, "/two", [b"x"], constant(100.0, 0.02)),
        )
    assert outcomes.of("one").statuses() == {"200": 5}
    assert outcomes.of("two").statuses() == {"404": 2}
    assert sum(b"x-deadline-ms: 100" in head for head in seen) == 5


def test_schedules_have_their_rates() -> None:
    rng = np.random.default_rng(1)
    times = poisson(1000.0, 10.0, rng)
    assert abs(len(times) - 10_000) < 500  # five standard deviations of a Poisson count
    assert np.all(np.diff(times) >= 0)
    gaps = np.diff(times)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # exponential gaps
    assert len(bursts(7, 0.5, 2.0)) == 28
    both, spans = phases([(100.0, 1.0), (1000.0, 2.0)], rng)
    assert spans == [(0.0, 1.0), (1.0, 3.0)]
    assert np.all(np.diff(both) >= 0)
    assert abs(np.count_nonzero(both >= 1.0) - 2000) < 225


def test_figures_of_outcomes_are_those_of_their_rows() -> None:
    with server(ok, delay_s=0.01) as port:
        outcomes = run(Stream("a", port, "/", [b"x"], constant(100.0, 0.2)))
    assert outcomes.percentile(50) == pytest.approx(float(np.median(outcomes.latency_ms)))
    assert outcomes.answered_per_s(0.0, 10.0) == 2.0
    assert outcomes.answered_per_s(0.0, 10.0, within_ms=1.0) == 0.0
    middles, per_s = outcomes.per_slice(0.5, 1.0)
    assert middles == [0.25, 0.75]
    assert per_s == [40.0, 0.0]
    assert len(outcomes.between(0.0, 0.1)) == 10


def test_the_histogram_holds_the_latencies() -> None:
    hdr = pytest.importorskip("hdrh.histogram", reason="the bench group is not installed")
    with server(ok, delay_s=0.01) as port:
        outcomes = run(Stream("a", port, "/", [b"x"], constant(100.0, 0.2)))
    histogram = hdr.HdrHistogram.decode(outcomes.histogram().encode())
    assert histogram.get_total_count() == 20
    assert histogram.get_max_value() == pytest.approx(outcomes.latency_ms.max() * 1e3, rel=2e-3)
