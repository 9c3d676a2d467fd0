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
    """The texts of a cell as one, then its images."""
    data = [output.get("data", {}) for output in outputs]
    texts = (
        "".join(output.get("text", of.get("text/plain", "")))
        for output, of in zip(outputs, data, strict=True)
        if "image/png" not in of
    )
    if text := "\n".join(each.rstrip() for each in texts):
        yield f"```text\n{text}\n```"
    for number, image in enumerate(of["image/png"] for of in data if "image/png" in of):
        images[f"{name}-{number}.png"] = base64.b64decode(image)
        yield f"![Output of the cell above]({name}-{number}.png)"
