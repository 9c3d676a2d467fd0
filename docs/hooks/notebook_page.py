"""A notebook as a page: its texts, its code, and the outputs that are stored in it."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Images = dict[str, bytes]


def notebook_page(file: Path) -> tuple[str, Images]:
    """The page's Markdown, and its images by their names beside it."""
    images: Images = {}
    parts = [f"[This page as a notebook]({file.name})"]
    for number, cell in enumerate(json.loads(file.read_text())["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += _outputs(cell["outputs"], f"{file.stem}-{number}", images)
    title = parts.pop(1)  # the first cell has the heading
    return "\n\n".join([title, *parts]), images


def _outputs(outputs: list[dict[str, Any]], name: str, images: Images) -> Iterator[str]:
    for number, output in enumerate(outputs):
        data = output.get("data", {})
        if "image/png" in data:
            images[f"{name}-{number}.png"] = base64.b64decode(data["image/png"])
            yield f"![Output of the cell above]({name}-{number}.png)"
        elif text := "".join(output.get("text", data.get("text/plain", ""))):
            yield f"```text\n{text.rstrip()}\n```"
