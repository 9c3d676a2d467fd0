"""The model card of a classifier: README.md with the front matter that the Hugging Face Hub reads."""

from collections.abc import Iterator, Mapping
from typing import Any

from noprop_dist.config.yaml_text import to_yaml_text
from noprop_dist.printable import printable

USE = """```python
from noprop_dist import NoPropClassifier

classifier = NoPropClassifier.from_pretrained("{name}"{network})
probabilities = classifier.predict_proba(images)  # {images}
```"""


def model_card(config: Mapping[str, Any]) -> str:
    """README.md of what config.json describes."""
    return f"---\n{to_yaml_text(_front_matter(config))}---\n\n" + "\n\n".join(_sections(config)) + "\n"


def _front_matter(config: Mapping[str, Any]) -> dict[str, Any]:
    front: dict[str, Any] = {"library_name": "noprop-dist", "tags": ["noprop", "diffusion"]}
    if _takes_images(config):
        front["pipeline_tag"] = "image-classification"
    return front | ({"metrics": ["accuracy"]} if config.get("trained", {}).get("accuracy") else {})


def _takes_images(config: Mapping[str, Any]) -> bool:
    return len(config["input_shape"]) == 3


def _sections(config: Mapping[str, Any]) -> Iterator[str]:
    trained = config.get("trained", {})
    data, classes = printable(str(trained.get("data", "its data"))), len(config["id2label"])
    blocks = config["blocks"]["count"]
    yield f"# NoProp classifier for {data}"
    yield (
        f"{blocks} denoising block(s) and a classifier, trained without back-propagation through the whole network "
        "(NoProp, [arXiv 2503.24322](https://arxiv.org/abs/2503.24322)) by noprop-dist. Block t makes z_t of the image "
        f"and z_(t−1), beginning with noise; the classifier reads z_T. It tells {classes} classes apart."
        if trained.get("method") != "backprop"
        else f"{blocks} block(s) and a classifier, trained end to end by back-propagation: the baseline of the NoProp "
        f"paper ([arXiv 2503.24322](https://arxiv.org/abs/2503.24322)). It tells {classes} classes apart."
    )
    yield "## Use\n\n" + USE.format(
        name="owner/name or a folder",
        network=", network=YourNetwork" if _names_own_network(config) else "",
        images=_images(config),
    )
    yield (
        "Normalisation and noise are part of the model, so one image always gets the same answer. "
        f"Sampler: {config['sampler']}; passes: {config['passes']}; steps per block: {config['steps_per_block']}."
    )
    rows = list(_rows(trained))
    if rows:
        yield "## Training\n\n" + "\n".join(["| | |", "|---|---|", *rows])


def _names_own_network(config: Mapping[str, Any]) -> bool:
    settings = config["blocks"]
    return any(each.get("kind") == "custom" for each in (settings["network"], *settings["networks"].values()))


def _images(config: Mapping[str, Any]) -> str:
    shape = ", ".join(map(str, ("B", *config["input_shape"])))
    values = "uint8, or floats in 0..1" if config["input_dtype"] == "uint8" else config["input_dtype"]
    return f"({shape}), {values}"


def _rows(trained: Mapping[str, Any]) -> Iterator[str]:
    for name, value in trained.items():
        for key, inner in value.items() if isinstance(value, Mapping) else [("", value)]:
            figure = f"{inner:.2%}" if name == "accuracy" else inner
            yield f"| {_cell(f'{name} {key}'.strip())} | {_cell(str(figure))} |"


def _cell(text: str) -> str:
    return printable(text).replace("|", "\\|")
