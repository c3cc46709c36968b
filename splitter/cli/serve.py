"""``splitter serve``."""

from __future__ import annotations

import signal

import click

from splitter.cli.options import announce, debug_option


@click.command("serve", epilog="\b\nExamples:\n  splitter serve bundle --listen 127.0.0.1:8001")
@click.argument("bundle", type=click.Path())
@click.option("--listen", default="127.0.0.1:8001", show_default=True, metavar="HOST:PORT")
@click.option("--workers", type=click.IntRange(min=1), help="Inferences at a time.")
@click.option(
    "--insecure", is_flag=True, help="Allow an address that other machines can reach, unencrypted."
)
@debug_option
def command(bundle: str, listen: str, workers: int | None, insecure: bool) -> None:
    """Serve the tail of BUNDLE over gRPC (Open Inference Protocol v2) until interrupted."""
    from splitter.serving.options import ServerOptions
    from splitter.serving.server import serve

    server = serve(bundle, listen, ServerOptions(workers=workers, insecure=insecure))

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    manifest = server.manifest
    announce(f"serving {manifest.name} (bundle {manifest.digest[:12]}) on {server.address}")
    try:
        server.wait()
    except KeyboardInterrupt:
        server.stop()
        announce("stopped")
