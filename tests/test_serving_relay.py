"""The relay: bytes arrive unchanged and in order, rates hold, and every fault does what it says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest

from splitter.errors import LinkError, ServingError
from splitter.serving.relay.relay import Relay
from splitter.serving.relay.trace import Trace

DEADLINE_S = 20.0


@contextmanager
def echo_server() -> Iterator[str]:
    """Sends back what it gets, and closes when its peer does."""

    def serve(end: socket.socket) -> None:
        with end, suppress(OSError):
            while data := end.recv(65536):
                end.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                end, _ = listener.accept()
                threads.append(threading.Thread(target=serve, args=(end,)))
                threads[-1].start()

    threads: list[threading.Thread] = []
    listener = socket.create_server(("127.0.0.1", 0))
    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in [accepting, *threads]:
            thread.join(DEADLINE_S)
            assert not thread.is_alive()


@pytest.fixture
def relay() -> Iterator[Relay]:
    with echo_server() as target, Relay(target) as relay:
        yield relay


def connect(relay: Relay) -> socket.socket:
    host, port = relay.address.split(":")
    return socket.create_connection((host, int(port)), timeout=DEADLINE_S)


def exchange(end: socket.socket, data: bytes) -> bytes:
    """Send while receiving, so that no buffer on the way can hold both up."""
    sender = threading.Thread(target=end.sendall, args=(data,))
    sender.start()
    received = bytearray()
    while len(received) < len(data):
        part = end.recv(65536)
        if not part:
            break
        received += part
    sender.join(DEADLINE_S)
    return bytes(received)


def noise(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


def until(condition: object) -> None:
    assert callable(condition)
    ends_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < ends_s
        time.sleep(0.001)


def test_bytes_arrive_unchanged_and_are_counted(relay):
    data = noise(3_000_000)
    with connect(relay) as end:
        assert exchange(end, data) == data
        assert relay.connections == 1
        end.shutdown(socket.SHUT_WR)
        assert end.recv(1) == b""
    assert (relay.up_bytes, relay.down_bytes) == (len(data), len(data))
    until(lambda: relay.connections == 0)


def test_bytes_arrive_unchanged_and_in_order_whatever_the_path_does_meanwhile(relay):
    data = noise(2_000_000)

    def bend() -> None:
        for turn in range(12):
            relay.shape(4e6 + turn * 1e6, 8e6, delay_s=0.001 * (turn % 3))
            relay.stall(0.01)
            relay.black_hole()
            relay.restore()
            relay.shape()

    bending = threading.Thread(target=bend)
    with connect(relay) as end:
        bending.start()
        assert exchange(end, data) == data
    bending.join(DEADLINE_S)


def test_many_connections_share_the_path_and_keep_their_bytes_apart(relay):
    relay.shape(2e7, 2e7)
    found: dict[int, bool] = {}

    def run(number: int) -> None:
        data = noise(100_000 + number)
        with connect(relay) as end:
            found[number] = exchange(end, data) == data

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert found == dict.fromkeys(range(8), True)


@pytest.mark.parametrize("rate", [5e4, 1e6, 1e7])
def test_no_more_passes_than_the_rate_allows_and_not_much_less(relay, rate):
    relay.shape(rate)
    data = noise(round(rate / 4))
    with connect(relay) as end:
        started = time.monotonic()
        assert exchange(end, data) == data
        seconds = time.monotonic() - started
    assert seconds >= 0.95 * len(data) / rate
    assert seconds < 10 * len(data) / rate + 2


def test_a_delay_is_paid_each_way(relay):
    relay.shape(delay_s=0.05)
    with connect(relay) as end:
        started = time.monotonic()
        assert exchange(end, b"ping") == b"ping"
        assert time.monotonic() - started >= 0.1


def test_a_trace_is_followed_from_when_it_is_set(relay):
    relay.shape(Trace([0.0, 0.2], [0.0, 1e6], 30.0))
    with connect(relay) as end:
        started = time.monotonic()
        assert exchange(end, b"ping") == b"ping"
        assert time.monotonic() - started >= 0.15


def test_a_cut_resets_connections_and_refuses_new_ones_until_it_is_healed(relay):
    with connect(relay) as end:
        assert exchange(end, b"ping") == b"ping"
        relay.cut()
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    assert relay.connections == 0
    with pytest.raises(ConnectionRefusedError):
        connect(relay)
    relay.restore()
    with connect(relay) as end:
        assert exchange(end, b"ping") == b"ping"


def test_a_black_hole_answers_nothing_breaks_nothing_and_heals(relay):
    with connect(relay) as old:
        assert exchange(old, b"ping") == b"ping"
        relay.black_hole()
        passed = relay.up_bytes
        old.sendall(b"lost?")
        with connect(relay) as new:
            new.sendall(b"hello")
            for end in (old, new):
                end.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    end.recv(1)
            assert relay.up_bytes == passed
            relay.restore()
            for end, sent in ((old, b"lost?"), (new, b"hello")):
                end.settimeout(DEADLINE_S)
                assert end.recv(16) == sent


def test_a_stall_passes_by_itself(relay):
    with connect(relay) as end:
        relay.stall(0.1)
        started = time.monotonic()
        assert exchange(end, b"ping") == b"ping"
        assert time.monotonic() - started >= 0.09


def test_what_would_have_passed_during_a_stall_does_not_pass_at_once_afterwards(relay):
    relay.shape(1e5)
    with connect(relay) as end:
        assert exchange(end, noise(3000)) == noise(3000)
        relay.stall(0.3)
        started = time.monotonic()
        assert exchange(end, noise(20_000)) == noise(20_000)
        assert time.monotonic() - started >= 0.3 + 0.19


def test_a_target_that_is_gone_resets_who_asks_for_it():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        target = f"127.0.0.1:{listener.getsockname()[1]}"
    # Where the reset comes early enough, connecting already meets it.
    with Relay(target) as relay, pytest.raises(ConnectionResetError), connect(relay) as end:
        end.recv(1)


def test_a_peer_that_resets_is_reset_on_the_other_side():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_S)
        target = f"127.0.0.1:{listener.getsockname()[1]}"
        with Relay(target) as relay, connect(relay) as client:
            server, _ = listener.accept()
            client.sendall(b"x" * 1000)
            assert server.recv(1) == b"x"
            server.close()  # with bytes unread: a reset
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            until(lambda: relay.connections == 0)


def test_closing_frees_the_port_and_may_be_done_twice():
    with echo_server() as target:
        relay = Relay(target)
        port = int(relay.address.split(":")[1])
        relay.cut()
        relay.close()
        relay.close()
        with Relay(target, port=port) as again, connect(again) as end:
            assert exchange(end, b"ping") == b"ping"


def test_what_is_no_path_is_refused(relay):
    with pytest.raises(LinkError, match="at least 0"):
        relay.shape(-1.0)
    with pytest.raises(LinkError, match="at least 0"):
        relay.shape(0.0)
    with pytest.raises(ServingError, match="is not an address"):
        Relay("nowhere")
