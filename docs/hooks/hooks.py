"""What the site shows beside the files of docs/: pages of the repository's root, generated references, the notebook."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import api_page
import commands_page
import metrics_page
import settings_page
from mkdocs.structure.files import File, Files
from notebook_page import notebook_page

ROOT = Path(__file__).parents[2]
ROOT_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
    "LICENSE": "LICENSE",
}
NOTEBOOK = "tutorial.ipynb"
GENERATED: dict[str, Callable[[], str]] = {
    "settings": settings_page.settings,
    "presets": settings_page.presets,
    "commands": commands_page.commands,
    "metrics": metrics_page.metrics,
    "api": api_page.api,
}
"""What stands in place of a line `<!-- generated: NAME -->`."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are no Markdown files of docs/."""
    for source, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=_seen_from_docs((ROOT / source).read_text())))
    page, images = notebook_page(Path(config.docs_dir) / NOTEBOOK)
    files.append(File.generated(config, "tutorial.md", content=page))
    for name, image in images.items():
        files.append(File.generated(config, name, content=image))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put generated references in their places."""
    for name, generate in GENERATED.items():
        place = f"<!-- generated: {name} -->"
        if place in markdown:
            markdown = markdown.replace(place, generate())
    return markdown


def _seen_from_docs(text: str) -> str:
    """Links of a page in the root, as they are from docs/, where the site has it."""
    for source, page in ROOT_PAGES.items():
        text = text.replace(f"]({source})", f"]({page})").replace(f"]({source}#", f"]({page}#")
    return text.replace("](docs/", "](").replace("](../docs/", "](")
