"""The command line: parse, load, call one library function, print. The only place that prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from splitter.errors import SplitterError


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; one line on standard error and status 1 for an error that a user can act on."""
    # numpy's linear algebra would start a thread a core, beside samples that run at the same time; it
    # reads this once, when numpy is first imported
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from splitter.cli.app import app

    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        app.main(args=arguments, prog_name="splitter")
    except (
        SplitterError,
        OSError,
    ) as error:  # the system's own refusals: a full disk, no permission
        if debug:
            raise
        message = " ".join(str(error).split())
        print(f"splitter: error: {message}", file=sys.stderr)  # one line, whatever the cause held
        sys.exit(1)
