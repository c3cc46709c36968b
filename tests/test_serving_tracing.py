"""One trace over device and server, as the SDK's own exporter sees it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from splitter.serving import tracing
from splitter.serving._pb2 import open_inference_pb2 as pb
from splitter.serving.credentials import open_channel
from splitter.serving.observe import Served
from splitter.serving.protocol import SERVICE, Address
from splitter.serving.server.options import ServerOptions
from splitter.serving.server.serve import serve
from splitter.serving.tracing import ServerTraces
from tests import models
from tests.serving import float_request, make_bundle

TERMS_S = {"receive": 0.001, "decode": 0.003, "queue": 0.002, "tail": 0.04, "encode": 0.005}
SERVED = Served(
    "ModelInfer", "OK", "ipv4:127.0.0.1:1", "net", "1", "0123456789ab", "cafe", "id",
    up_bytes=100, down_bytes=10, batch_size=3, **{f"{k}_s": v for k, v in TERMS_S.items()},
)  # fmt: skip


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What was exported; a provider for this test only, where an application sets one for good."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


def named(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    """Finished spans by their path from the root, such as ``splitter.run/request``."""
    finished = exporter.get_finished_spans()
    by_id = {span.context.span_id: span for span in finished}

    def path(span: ReadableSpan) -> str:
        if span.parent is None:
            return span.name
        return f"{path(by_id[span.parent.span_id])}/{span.name}"

    found = {path(span): span for span in finished}
    assert len(found) == len(finished)
    return found


def note(served: Served) -> None:
    observer = ServerTraces()
    observer.request(served)
    observer.close()


def infer(address: str, request: pb.ModelInferRequest) -> None:
    with open_channel(Address.parse(address), [("grpc.use_local_subchannel_pool", 1)]) as channel:
        channel.unary_unary(
            f"/{SERVICE}/ModelInfer", request_serializer=pb.ModelInferRequest.SerializeToString
        )(request, metadata=tracing.headers(), timeout=60)


def test_one_trace_covers_device_and_server(spans: InMemorySpanExporter, tmp_path: Path) -> None:
    bundle = make_bundle(models.chain(), tmp_path, ["b"])
    observer = ServerTraces()
    options = ServerOptions(observers=(observer,))
    with serve(bundle, options=options) as server, tracing.span("splitter.run", cut="cafe"):
        with tracing.span("head"):
            pass
        with tracing.span("encode"):
            pass
        with tracing.request_span("request") as request:
            infer(server.address, float_request("model", "b", np.zeros((1, 8), np.float32)))
            request.set_attribute("up_bytes", 100)
    observer.close()
    found = named(spans)
    served = "splitter.run/request/ModelInfer"
    assert set(found) == {
        "splitter.run", "splitter.run/head", "splitter.run/encode", "splitter.run/request", served,
        *(f"{served}/{term}" for term in ("receive", "queue", "decode", "tail", "encode")),
    }  # fmt: skip
    assert len({span.context.trace_id for span in found.values()}) == 1
    assert found["splitter.run/request"].kind is trace.SpanKind.CLIENT
    assert found[served].kind is trace.SpanKind.SERVER
    assert found["splitter.run"].attributes == {"cut": "cafe"}
    assert found["splitter.run/request"].attributes == {"up_bytes": 100}


def test_the_server_s_terms_follow_one_another_and_fill_its_span(
    spans: InMemorySpanExporter,
) -> None:
    note(SERVED)
    found = named(spans)
    whole = found["ModelInfer"]
    at_ns = whole.start_time
    for term, term_s in TERMS_S.items():
        span = found[f"ModelInfer/{term}"]
        assert (span.start_time, span.end_time) == (at_ns, at_ns + int(term_s * 1e9))
        at_ns = span.end_time
    assert whole.end_time == at_ns
    assert whole.attributes is not None
    assert whole.attributes["splitter.model"] == "net"
    assert whole.attributes["splitter.batch_size"] == 3
    assert whole.status.is_ok


@pytest.mark.parametrize(
    "given", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "00-\xff", "9" * 10000]
)
def test_a_malformed_parent_begins_a_new_trace(given: str, spans: InMemorySpanExporter) -> None:
    note(replace(SERVED, traceparent=given))
    assert named(spans)["ModelInfer"].parent is None


def test_a_parent_that_is_not_sampled_costs_no_spans(spans: InMemorySpanExporter) -> None:
    parent = f"00-{1:032x}-{1:016x}-00"
    note(replace(SERVED, traceparent=parent))
    assert spans.get_finished_spans() == ()


def test_failures_are_marked_on_the_side_whose_they_are(spans: InMemorySpanExporter) -> None:
    for status in ("INTERNAL", "INVALID_ARGUMENT"):
        note(replace(SERVED, status=status, tail_s=0.0, encode_s=0.0))
    assert not [span for span in spans.get_finished_spans() if span.name == "tail"]
    statuses = {
        str((span.attributes or {})["rpc.response.status_code"]): span.status.status_code
        for span in spans.get_finished_spans()
        if span.name == "ModelInfer"
    }
    assert statuses["INTERNAL"] is trace.StatusCode.ERROR
    assert statuses["INVALID_ARGUMENT"] is trace.StatusCode.UNSET
    spans.clear()
    with pytest.raises(ZeroDivisionError), tracing.span("splitter.run"):
        raise ZeroDivisionError
    assert named(spans)["splitter.run"].status.status_code is trace.StatusCode.ERROR


def test_a_request_whose_spans_fail_is_logged_and_the_next_is_traced(
    spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    observer = ServerTraces()
    observer.request(replace(SERVED, tail_s="long"))  # type: ignore[arg-type]
    observer.request(SERVED)
    observer.close()
    assert "could not be made" in caplog.text
    assert "ModelInfer" in named(spans)


def test_without_the_package_or_a_use_of_it_nothing_happens_and_nothing_is_imported() -> None:
    program = """
import sys
from splitter.serving import tracing
from splitter.serving.device import session
from splitter.serving.observe import Served
sys.modules["opentelemetry"] = None  # as where it is not installed
with tracing.span("splitter.run") as span, tracing.request_span("request"):
    span.set_attribute("key", 1)
    assert tracing.headers() == ()
server = tracing.ServerTraces()
server.request(Served("ModelInfer", "OK", "peer"))
server.close()
assert not [name for name in sys.modules if name.startswith("opentelemetry.")]
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
