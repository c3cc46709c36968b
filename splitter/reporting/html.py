"""The report: one page that holds a plan, what was measured of it, and all that is needed to show both.

The page asks for nothing from any network, and says so to the browser: its content security policy allows the
scripts written into it, by their digests, and no others. Names in a plan come from a model file, and are
hostile: they are data in a block that no markup can end, and the page writes them as text alone.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from importlib import resources

import msgspec

from splitter import __version__
from splitter.calibration.records import Calibration
from splitter.planning.records import Plan
from splitter.planning.verify import Verification
from splitter.reporting.headline import headline
from splitter.reporting.view import view

LIBRARIES = {
    "cytoscape.min.js": ("cytoscape",),
    "cytoscape-dagre.min.js": ("cytoscape-dagre", "dagre"),
}
"""In the order in which they load, each with the packages whose licences go with it."""
SCRIPTS = (
    "units.js", "page.js", "state.js", "blocks.js", "graph.js", "walk.js", "details.js", "svg.js", "bars.js",
    "policy.js", "panels.js", "sources.js", "main.js",
)  # fmt: skip


def report_html(
    plan: Plan,
    measured: Sequence[Verification] = (),
    calibrations: Sequence[Calibration] = (),
) -> str:
    """Put the page together."""
    scripts = [_library(name, packages) for name, packages in LIBRARIES.items()]
    own = "\n".join(_text(name) for name in SCRIPTS)
    scripts.append(f'(() => {{\n"use strict";\n{own}\n}})();')
    found = view(plan, measured, calibrations)
    found["version"] = __version__
    answer = headline(plan)
    page = _text("report.html")
    for mark, text in {
        "policy": html.escape(_policy(scripts)),
        "title": html.escape(f"{plan.model.file}: {answer.title}"),
        "model": html.escape(plan.model.file),
        "way": html.escape(f"{plan.device.name} → {plan.link.name} → {plan.server.name}"),
        "answer": html.escape(answer.title),
        "lines": "\n".join(
            f"<dt>{html.escape(question)}</dt><dd>{html.escape(line)}</dd>"
            for question, line in answer.lines
        ),
        "style": _text("report.css"),
    }.items():
        page = page.replace(f"<!--{mark}-->", text, 1)
    # last, so that nothing in them is taken for a mark
    data = f'<script type="application/json" id="data">{_embedded(found)}</script>'
    return page.replace(
        "<!--scripts-->", "\n".join([data, *(f"<script>{text}</script>" for text in scripts)]), 1
    )


def _embedded(value: object) -> str:
    """JSON that ends no element and opens no comment, whatever it holds."""
    text = msgspec.json.encode(value).decode()
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _policy(scripts: Sequence[str]) -> str:
    digests = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts
    )
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:"


def _text(name: str) -> str:
    return (resources.files("splitter.reporting") / "web" / name).read_text("utf-8")


def _library(name: str, packages: Sequence[str]) -> str:
    licences = "\n".join(f"{name}:\n{_vendored(f'{name}.LICENSE')}" for name in packages)
    return f"/*\n{licences}*/\n{_vendored(name)}"


def _vendored(name: str) -> str:
    return (resources.files("splitter.reporting") / "web" / "vendor" / name).read_text("utf-8")
