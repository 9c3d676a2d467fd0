"""What the site shows beside the files of docs/: pages of the repository's root, generated references, the notebook."""

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import api_page
import commands_page
import metrics_page
import settings_page
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from notebook_page import notebook_page

ROOT = Path(__file__).parents[2]
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
    "LICENSE": "LICENSE",
}
NOTEBOOK, NOTEBOOK_PAGE = "tutorial.ipynb", "tutorial.md"
GENERATED: dict[str, Callable[[], str]] = {
    "settings": settings_page.settings,
    "presets": settings_page.presets,
    "commands": commands_page.commands,
    "metrics": metrics_page.metrics,
    "api": api_page.api,
}
"""What stands in place of a line `<!-- generated: NAME -->`."""


LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are no Markdown files of docs/."""
    for source, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text()))
    text, images = notebook_page(ROOT / "docs" / NOTEBOOK)
    for name, content in {NOTEBOOK_PAGE: text, **images}.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let links lead to pages of the site, and put generated references in their places."""
    uri = page.file.src_uri
    if uri != NOTEBOOK_PAGE:
        markdown = LINK.sub(lambda link: f"]({_on_the_site(link[1], uri)}{link[2] or ''})", markdown)
    for name, generate in GENERATED.items():
        place = f"<!-- generated: {name} -->"
        if place in markdown:
            markdown = markdown.replace(place, generate())
    return markdown


def _on_the_site(link: str, uri: str) -> str:
    """A link between files of the repository, as it is between their pages."""
    source = next((source for source, page in ROOT_PAGES.items() if page == uri), f"docs/{uri}")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    pages = {**ROOT_PAGES, f"docs/{NOTEBOOK}": NOTEBOOK_PAGE}
    return posixpath.relpath(pages.get(target, target.removeprefix("docs/")), posixpath.dirname(uri) or ".")
