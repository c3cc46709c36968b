"""``splitter serve``."""

from __future__ import annotations

import logging
import os
import signal
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import click

from splitter.cli.logs import AccessLog, log_options, logs
from splitter.cli.onward import onward_options, take_onward
from splitter.cli.options import Finite, announce, debug_option
from splitter.cli.traces import traces_option, tracing
from splitter.errors import BundleError

if TYPE_CHECKING:
    from splitter.serving.server.options import ServerOptions
    from splitter.serving.server.serve import Server

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_MOST_NAMES = 4  # in one line

_log = logging.getLogger(__name__)

EXAMPLES = (
    "\b\nExamples:\n  splitter serve bundle --listen 127.0.0.1:8001\n"
    "  splitter serve --repository models --max-batch 8 --max-delay 2\n"
    "  splitter serve bundle --tls-cert server.pem --tls-key server.key\n"
    "  splitter serve bundle --token-file tokens --metrics 9090 --log-format json\n"
    "  splitter serve 1-device-relay --via 2-relay-server --next 10.0.0.2:8001"
)


def _sizes(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...]:
    texts = value.split(",") if value else []
    if not all(text.isascii() and text.isdigit() and 0 < len(text) < 7 for text in texts):
        raise click.BadParameter(f"{value!r} are no sizes, such as 4,8", ctx, param)
    return tuple(map(int, texts))


def _address(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    return f"127.0.0.1:{value}" if value is not None and ":" not in value else value


@click.command("serve", epilog=EXAMPLES)
@click.argument("bundle", type=click.Path(), required=False)
@click.option(
    "--repository", type=click.Path(), metavar="DIR",
    help="Serve the bundles below DIR, as models and their versions.",
)  # fmt: skip
@click.option("--listen", default="127.0.0.1:8001", show_default=True, metavar="HOST:PORT")
@click.option("--workers", type=click.IntRange(min=1), help="Tails that run at a time.")
@click.option(
    "--max-batch", default=8, show_default=True, type=click.IntRange(min=1),
    help="Samples in a run, where a tail takes more than one.",
)  # fmt: skip
@click.option(
    "--max-delay", default=0.0, show_default=True, type=Finite(min=0), metavar="MS",
    help="To wait for others to share a run with.",
)  # fmt: skip
@click.option(
    "--preferred-batch", "preferred", callback=_sizes, metavar="4,8",
    help="Batch sizes that need not wait for more.",
)  # fmt: skip
@click.option(
    "--queue", default=32, show_default=True, type=click.IntRange(min=0),
    help="Requests that may wait for a tail.",
)  # fmt: skip
@click.option(
    "--per-peer", default=128, show_default=True, type=click.IntRange(min=1),
    help="Requests at a time from one address.",
)  # fmt: skip
@click.option(
    "--streams", default=16, show_default=True, type=click.IntRange(min=0), help="Open streams.",
)  # fmt: skip
@click.option(
    "--join-wait", "join_s", default=5.0, show_default=True, type=Finite(min=0, min_open=True),
    metavar="S", help="For all parts of a request that several devices send.",
)  # fmt: skip
@click.option(
    "--sequences", default=256, show_default=True, type=click.IntRange(min=1),
    help="Sessions whose state is held here, where state lives on the server.",
)  # fmt: skip
@click.option(
    "--sequence-idle", "sequence_idle_s", default=600.0, show_default=True, metavar="S",
    type=Finite(min=0, min_open=True), help="How long one may rest.",
)  # fmt: skip
@click.option(
    "--keep-outputs", type=click.Path(), metavar="DIR",
    help="Where outputs that are wanted on the server go: a file for each request.",
)  # fmt: skip
@click.option(
    "--keep-last", default=1000, show_default=True, type=click.IntRange(min=1), metavar="N",
    help="Files that DIR holds; the oldest go.",
)  # fmt: skip
@click.option("--tls-cert", type=click.Path(), metavar="PEM", help="Certificate, then its chain.")
@click.option("--tls-key", type=click.Path(), metavar="PEM", help="The certificate's key.")
@click.option(
    "--client-ca", type=click.Path(), metavar="PEM",
    help="Take only clients with a certificate of these authorities.",
)  # fmt: skip
@click.option(
    "--token-file", type=click.Path(), help="Bearer tokens that may call, one a line.",
)  # fmt: skip
@click.option(
    "--metrics", callback=_address, metavar="[HOST:]PORT", help="Serve Prometheus metrics there.",
)  # fmt: skip
@onward_options
@traces_option
@log_options
@click.option(
    "--grace", default=20.0, show_default=True, type=Finite(min=0), metavar="S",
    help="For requests that run when the server is told to stop.",
)  # fmt: skip
@click.option(
    "--insecure", is_flag=True, help="Allow an address that others can reach without TLS.",
)  # fmt: skip
@debug_option
def command(
    bundle: str | None, repository: str | None, listen: str, metrics: str | None, traces: bool,
    log_format: str, log_level: str, grace: float, **chosen: Any,
) -> None:  # fmt: skip
    """Serve the tails of BUNDLE, or of a repository, over gRPC until interrupted.

    The protocol is the Open Inference Protocol v2. SIGTERM and SIGINT drain: no new requests, those that
    run end, status 0. A second one ends at once. Certificates and tokens are read again when
    their files change.
    """
    from splitter.serving.server.memory import keep_memory

    source = _source(bundle, repository)
    chosen["onward"] = take_onward(chosen, repository)
    keep_memory()  # before any thread has an arena of its own
    with ExitStack() as stack:
        stack.enter_context(logs(log_format, log_level))
        stack.enter_context(tracing(traces))
        observers: list[Any] = [AccessLog()] if AccessLog.is_wanted() else []
        if traces:
            from splitter.serving.tracing import ServerTraces

            spans = ServerTraces()
            stack.callback(spans.close)
            observers.append(spans)
        if metrics is not None:
            from splitter.serving.server.metrics import Metrics, MetricsServer

            counts = Metrics()
            scraped = stack.enter_context(MetricsServer(counts, metrics))
            _log.info("metrics on http://%s/metrics", scraped.address)
            observers.append(counts)
        server = _start(source, listen, _options(chosen, tuple(observers)))
        if metrics is not None:
            counts.watch(server)
        is_drained = _run(server, grace)
    if not is_drained:
        os._exit(1)  # Python would wait for the threads of the tails that still run


def _source(bundle: str | None, repository: str | None) -> str:
    if repository is not None and bundle is None:
        return repository
    if bundle is None or repository is not None:
        raise click.UsageError("Give either BUNDLE or --repository DIR.")
    from splitter.partition.manifest import MANIFEST

    folder = Path(bundle)
    if folder.is_dir() and not (folder / MANIFEST).is_file():
        raise BundleError(
            f"{folder}: no bundle, for it has no {MANIFEST}; --repository serves the bundles in a folder"
        )
    return bundle


def _options(chosen: dict[str, Any], observers: tuple[Any, ...]) -> ServerOptions:
    from splitter.serving.server.options import ServerOptions

    cert, key, client_ca = (chosen.pop(name) for name in ("tls_cert", "tls_key", "client_ca"))
    token_file, delay_ms = chosen.pop("token_file"), chosen.pop("max_delay")
    folder, most = chosen.pop("keep_outputs"), chosen.pop("keep_last")
    if folder is not None:
        from splitter.serving.server.keeping import Folder

        chosen["keep"] = Folder(folder, most)
    if (cert is None) != (key is None):
        raise click.UsageError("--tls-cert and --tls-key go together.")
    if client_ca is not None and cert is None:
        raise click.UsageError("--client-ca needs --tls-cert and --tls-key.")
    if cert is not None or token_file is not None:
        from splitter.serving.credentials import ServerTls, TokenFile

        if cert is not None:
            chosen["credentials"] = ServerTls(cert, key, client_ca).credentials()
        if token_file is not None:
            chosen["authenticate"] = TokenFile(token_file).authenticate
    return ServerOptions(max_delay_s=delay_ms / 1000, observers=observers, **chosen)


def _start(source: str, listen: str, options: ServerOptions) -> Server:
    from splitter.serving.protocol import Address
    from splitter.serving.server.serve import serve

    server = serve(source, listen, options)
    if options.authenticate and not (options.credentials or Address.parse(listen).is_loopback):
        _log.warning("tokens travel unencrypted on %s", server.address)
    return server


def _run(server: Server, grace_s: float) -> bool:
    """Until a signal; then drain, during which the next one has its usual effect. Whether all ended."""
    # the only kind of queue that a signal's handler may fill while its thread reads it
    told: SimpleQueue[int] = SimpleQueue()
    for number in _SIGNALS:
        signal.signal(number, lambda number, frame: told.put(number))
    announce(f"serving {_names(server)} on {server.address}")
    name = signal.Signals(told.get()).name
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    _log.info("%s: draining, for at most %g s", name, grace_s)
    server.stop(grace_s)
    _log.info("stopped")
    return not server.in_flight()


def _names(server: Server) -> str:
    ready = server.repository.ready()
    if len(ready) > _MOST_NAMES:
        return f"{len(ready)} versions of {len({one.name for one in ready})} models"
    names = (f"{one.name} (bundle {one.manifest.digest[:12]})" for one in ready)
    return ", ".join(names) or "no model yet"
