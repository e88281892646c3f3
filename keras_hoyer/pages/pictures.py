"""Figures of matplotlib as pictures for pages."""

import io
import re
from typing import Any
from xml.etree import ElementTree

import matplotlib

# The colours of figures. On a page each is the variable of its name in page.css, so that it
# follows the reader's choice of light or dark.
COLORS = {
    "paper": "#ffffff",
    "ink": "#1b2128",
    "quiet": "#56606b",
    "line": "#d3d9df",
    "strong": "#0b62c4",
    "pale": "#a8cbf0",
    "mark": "#b34700",
}

STYLE = {
    "axes.edgecolor": COLORS["quiet"],
    "axes.labelcolor": COLORS["ink"],
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "font.size": 9,
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and copied
    "svg.hashsalt": "keras_hoyer",  # the same figure gives the same file
    "text.color": COLORS["ink"],
    "xtick.color": COLORS["quiet"],
    "ytick.color": COLORS["quiet"],
}

_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"


def as_svg(figure: Any, name: str, title: str, description: str) -> str:
    """A figure as an SVG element for a page.

    Args:
        figure: The `matplotlib.figure.Figure`.
        name: What its ids begin with, since those of a page are unique.
        title: What it shows, for those who cannot see it.
        description: What can be seen in it.
    """
    file = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(
            file, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None}
        )
    ElementTree.register_namespace("", _SVG[1:-1])
    ElementTree.register_namespace("xlink", _LINK[1:-5])
    root = ElementTree.fromstring(file.getvalue())
    for metadata in root.findall(f"{_SVG}metadata"):
        root.remove(metadata)
    _rename(root, name)
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-description")
    for tag, text in (("description", description), ("title", title)):
        child = ElementTree.Element(f"{_SVG}{'desc' if tag == 'description' else tag}")
        child.set("id", f"{name}-{tag}")
        child.text = text
        root.insert(0, child)
    text = ElementTree.tostring(root, encoding="unicode")
    variables = {value: f"var(--{key})" for key, value in COLORS.items()}
    return re.sub("|".join(variables), lambda match: variables[match[0]], text)


def _rename(root: ElementTree.Element, name: str) -> None:
    """Gives all ids a beginning of their own, also where they are referred to."""
    for element in root.iter():
        for key, value in element.attrib.items():
            if key == "id":
                element.set(key, f"{name}-{value}")
            elif key == _LINK and value.startswith("#"):
                element.set(key, f"#{name}-{value[1:]}")
            elif "url(#" in value:
                element.set(key, value.replace("url(#", f"url(#{name}-"))
