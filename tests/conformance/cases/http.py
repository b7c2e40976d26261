"""HTTP/1.1 under the protocol: connections, chunks, lengths, methods, many clients."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tests.conformance.case import Group
from tests.conformance.target import JSON, Connection, Target
from tests.conformance.wire import array, error, fp32, outputs, request

http = Group("http")
infer = Group("http", needs=["identity_fp32"])
PATH = "/v2/models/identity_fp32/infer"


def _body(*values: float) -> bytes:
    return json.dumps(request(fp32(list(values)))).encode()


def _first(connection: Connection) -> float:
    return float(array(outputs(connection.read())["OUTPUT0"])[0])


def _head(connection: Connection, *lines: str, path: str = PATH, version: str = "1.1") -> bytes:
    given = (f"host: {connection.host}", "content-type: application/json", *lines)
    return f"POST {path} HTTP/{version}\r\n{''.join(line + chr(13) + chr(10) for line in given)}\r\n".encode()


@infer.must("HTTP: a connection stays open for the next request")
def a_connection_serves_several_requests(target: Target) -> None:
    with target.connection() as connection:
        for number in range(5):
            connection.send("POST", PATH, _body(number), JSON)
            assert _first(connection) == number


@infer.should("an error ends a request and no more; clients keep their connections in pools")
def a_connection_survives_an_error(target: Target) -> None:
    with target.connection() as connection:
        connection.send("POST", PATH, b'{"inputs": 1}', JSON)
        assert connection.read().status >= 400
        connection.send("POST", PATH, _body(2.0), JSON)
        assert _first(connection) == 2.0


@infer.must("HTTP: answers to pipelined requests come in their order")
def pipelined_requests_are_answered_in_order(target: Target) -> None:
    with target.connection() as connection:
        for number in range(8):
            connection.send("POST", PATH, _body(number), JSON)
        assert [_first(connection) for _ in range(8)] == list(range(8))


def _chunked(target: Target, chunks: list[bytes], extension: bytes = b"") -> float:
    with target.connection() as connection:
        encoded = b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
        connection.write(_head(connection, "transfer-encoding: chunked") + encoded + b"0\r\n\r\n")
        return _first(connection)


@infer.must("HTTP/1.1: every receiver reads chunks")
def a_chunked_body_is_read(target: Target) -> None:
    body = _body(7.0)
    assert _chunked(target, [body[:9], body[9:]]) == 7.0


@infer.must("HTTP: a chunk may be one byte")
def a_body_in_chunks_of_one_byte_is_read(target: Target) -> None:
    body = _body(*range(300))
    assert _chunked(target, [bytes([byte]) for byte in body]) == 0.0


@infer.must("HTTP: chunk extensions that are not known are passed over")
def chunk_extensions_are_passed_over(target: Target) -> None:
    assert _chunked(target, [_body(3.0)], b";a=b") == 3.0


@infer.must("HTTP: where TCP cuts a request means nothing")
def a_request_in_many_small_packets_is_read(target: Target) -> None:
    with target.connection() as connection:
        body = _body(5.0)
        whole = _head(connection, f"content-length: {len(body)}") + body
        for at in range(0, len(whole), 40):
            connection.write(whole[at : at + 40])
            time.sleep(0.002)
        assert _first(connection) == 5.0


@infer.must("HTTP: names of headers do not tell capitals from small letters")
def names_of_headers_may_be_in_capitals(target: Target) -> None:
    with target.connection() as connection:
        body = _body(6.0)
        connection.write(_head(connection, f"CONTENT-LENGTH: {len(body)}") + body)
        assert _first(connection) == 6.0


@infer.should("curl asks before it sends a large body, and waits a second when nobody says go on")
def expect_100_continue_is_answered(target: Target) -> None:
    with target.connection() as connection:
        body = _body(8.0)
        connection.write(_head(connection, f"content-length: {len(body)}", "expect: 100-continue"))
        connection.plain.settimeout(3)
        try:
            interim = connection.plain.recv(4096)
        except TimeoutError:
            raise AssertionError("no 100 within 3 s") from None
        assert interim.startswith(b"HTTP/1.1 100"), interim[:80]
        connection.write(body)
        assert _first(connection) == 8.0


@infer.must("HTTP: a client that asks for it gets the connection closed after the answer")
def connection_close_is_honoured(target: Target) -> None:
    with target.connection() as connection:
        body = _body(9.0)
        connection.write(_head(connection, f"content-length: {len(body)}", "connection: close") + body)
        assert _first(connection) == 9.0
        assert connection.plain.recv(1) == b"", "the connection is still open"


@infer.should("load balancers and old health checks speak HTTP/1.0")
def http_1_0_is_answered(target: Target) -> None:
    with target.connection() as connection:
        body = _body(4.0)
        connection.write(_head(connection, f"content-length: {len(body)}", version="1.0") + body)
        assert _first(connection) == 4.0


@http.must("HTTP: a request in 1.1 without Host is answered with 400")
def a_request_without_host_is_refused(target: Target) -> None:
    with target.connection() as connection:
        connection.write(b"GET /v2/health/live HTTP/1.1\r\n\r\n")
        assert connection.read("GET").status == 400


@http.should("what is no HTTP gets a 400, or no answer, and harms nobody")
def bytes_that_are_no_http_do_no_harm(target: Target) -> None:
    with target.connection(3) as connection:
        connection.write(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n")
        try:
            answer = connection.plain.recv(64)
        except (TimeoutError, ConnectionResetError):
            answer = b""
        assert not answer or b" 400 " in answer, answer
    assert target.is_live()


@infer.must("HTTP: two different lengths are an attack on whoever stands between")
def two_lengths_that_differ_are_refused(target: Target) -> None:
    with target.connection(3) as connection:
        body = _body(1.0)
        connection.write(_head(connection, f"content-length: {len(body)}", f"content-length: {len(body) - 4}") + body)
        assert connection.read().status == 400


@infer.must("HTTP: a length that is no number cannot be waited for")
def a_length_that_is_no_number_is_refused(target: Target) -> None:
    with target.connection(3) as connection:
        connection.write(_head(connection, "content-length: many") + _body(1.0))
        assert connection.read().status == 400


@infer.must("HTTP: a chunk's length that is no number cannot be waited for")
def a_chunk_of_no_length_is_refused(target: Target) -> None:
    with target.connection(3) as connection:
        connection.write(_head(connection, "transfer-encoding: chunked") + b"zz\r\nabc\r\n0\r\n\r\n")
        try:
            status = connection.read().status
        except AssertionError:  # closed without an answer: refused too
            status = 400
        assert status >= 400
    assert target.is_live()


@infer.should("a body that nobody would take need not be sent first")
def a_length_of_a_terabyte_is_refused_at_once(target: Target) -> None:
    with target.connection(3) as connection:
        connection.write(_head(connection, f"content-length: {10**12}") + b'{"inputs":')
        assert 400 <= connection.read().status < 500
    assert target.is_live()


@infer.must("who goes away in the middle of a request harms nobody")
def a_client_that_leaves_early_does_no_harm(target: Target) -> None:
    for _ in range(20):
        with target.connection() as connection:
            connection.write(_head(connection, "content-length: 500") + b'{"inputs":[')
    with target.connection() as connection:
        connection.send("POST", PATH, _body(1.0), JSON)
        assert _first(connection) == 1.0


@infer.must("what is told to one client is not told to another")
def fifty_clients_at_once_get_their_own_answers(target: Target) -> None:
    def ask(number: int) -> bool:
        with target.connection() as connection:
            values = np.full(1 + number % 7, number, "<f4")
            for _ in range(4):
                connection.send("POST", PATH, json.dumps(request(fp32(values.tolist()), id=str(number))).encode(), JSON)
                answer = connection.read()
                if answer.ok().get("id") != str(number):
                    return False
                if array(outputs(answer)["OUTPUT0"]).tobytes() != values.tobytes():
                    return False
        return True

    with ThreadPoolExecutor(50) as pool:
        assert all(pool.map(ask, range(50)))


@infer.must("HTTP: a request target may be a whole URL")
def a_whole_url_as_target_is_read(target: Target) -> None:
    with target.connection() as connection:
        connection.write(
            f"GET http://{connection.host}/v2/models/identity_fp32 HTTP/1.1\r\nhost: {connection.host}\r\n\r\n".encode()
        )
        assert connection.read("GET").ok()["name"] == "identity_fp32"


@infer.should("what a route does not read changes nothing")
def a_query_changes_nothing(target: Target) -> None:
    assert target.ask("POST", f"{PATH}?a=b&c", request(fp32([1.0]))).status == 200


@http.should("a path that is not there is 404, in the form of every error")
def an_unknown_path_is_404_with_the_error_form(target: Target) -> None:
    answer = target.get("/v2/nothing/here")
    assert answer.status == 404
    error(answer)


@infer.should("a method that is not there is 405")
def get_of_infer_is_405(target: Target) -> None:
    assert target.get(PATH).status == 405


@infer.should("HTTP: a 405 names the methods that there are")
def a_405_names_the_methods_allowed(target: Target) -> None:
    answer = target.get(PATH)
    assert answer.status == 405
    assert "POST" in answer.headers.get("allow", ""), dict(answer.headers)


@infer.must("a method that makes no sense is an error")
def delete_of_a_model_is_an_error(target: Target) -> None:
    assert target.ask("DELETE", "/v2/models/identity_fp32").status >= 400
