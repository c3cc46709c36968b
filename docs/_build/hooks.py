"""What the site holds beside the pages in docs/: the commands, the changelog, the rendered notebooks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from splitter.cli.app import COMMANDS, app

ROOT = Path(__file__).parents[2]
RENDERED = ROOT / "build" / "notebooks"
"""Where `make notebooks` leaves them, executed; the site does without where it has not been run."""

BOOST = {"tutorial": 3.0, "how-to": 3.0, "reference/library": 0.5, "changelog": 0.2}
"""What the search puts first and last, by the beginning of a page's path."""

COMMANDS_MARK = "<!-- every command, from its --help -->"
MARK = re.compile(r"^(```\w+) [^`\n]*$", re.MULTILINE)
"""What tests are told about a block, after its language; the highlighter knows languages only."""

FIGURE = re.compile(r'<p><img alt="([^"]*)" src="([^"]*pipeline\.svg)"[^>]*></p>')
OUT_OF_DOCS = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?!docs/)([^)\s]*)\)")
"""A link from a page to a file of the project that is no page; beside the site there is none."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "changelog.md", content=changelog))
    names = []
    for notebook in sorted(RENDERED.glob("*.ipynb")):
        names.append(f"notebooks/{notebook.stem}.md")
        for path, content in _rendered(notebook):
            files.append(File.generated(config, path, content=content))
    for entry in config.nav or []:
        if "Notebooks" in entry:
            entry["Notebooks"] = ["notebooks.md", *names]
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in the commands, let links to notebooks lead to the rendered ones, tell the search."""
    for path, boost in BOOST.items():
        if page.file.src_uri.startswith(path):
            page.meta["search"] = {"boost": boost}
    if COMMANDS_MARK in markdown:
        markdown = markdown.replace(COMMANDS_MARK, "\n".join(_commands()))

    def to_page(found: re.Match[str]) -> str:
        name = f"notebooks/{Path(found[2]).stem}.md"
        return f"[{found[1]}]({name})" if files.get_file_from_path(name) else found[1]

    return OUT_OF_DOCS.sub(to_page, MARK.sub(r"\1", markdown))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the figure into the page, where it takes the colours of the theme."""

    def inline(found: re.Match[str]) -> str:
        drawing = (ROOT / "docs" / "assets" / "pipeline.svg").read_text(encoding="utf-8")
        return f'<figure class="pipeline">{drawing}</figure>'

    return FIGURE.sub(inline, html)


def _commands() -> Iterator[str]:
    """Markdown of every command, from click's own account of it."""
    with click.Context(app, info_name="splitter") as context:
        for name in COMMANDS:
            command = app.get_command(context, name)
            assert command is not None
            yield from _command(command, name, context)


def _command(command: click.Command, name: str, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=parent)
    yield f"\n## `{context.command_path}`\n"
    yield f"{_text(command.help or '')}\n"
    yield f"```text\n{command.get_usage(context)}\n```\n"
    rows = [row for param in command.get_params(context) if (row := param.get_help_record(context))]
    if rows:
        yield "| option | |\n|---|---|"
        yield from (f"| `{_cell(left)}` | {_cell(right)} |" for left, right in rows)
    examples = (command.epilog or "").partition("Examples:\n")[2]
    if examples:
        lines = [f"$ {line.strip()}" for line in examples.splitlines() if line.strip()]
        yield "\n```console\n" + "\n".join(lines) + "\n```\n"
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from _command(found, inner, context)


def _text(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in text.replace("\b", "").split("\n\n"))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _rendered(notebook: Path) -> Iterator[tuple[str, Any]]:
    """A notebook's page and its pictures, as (path in the site, content)."""
    from nbconvert import MarkdownExporter

    folder = f"notebooks/{notebook.stem}"
    body, found = MarkdownExporter().from_filename(
        str(notebook), resources={"output_files_dir": notebook.stem}
    )
    yield f"{folder}.md", body
    for path, content in found["outputs"].items():
        yield f"notebooks/{path}", content
