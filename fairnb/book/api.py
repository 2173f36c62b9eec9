"""The page "API": what `fairnb` re-exports, with its docstrings. As a Sphinx extension it reads them as they are written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import fairnb

if TYPE_CHECKING:
    from sphinx.application import Sphinx

INTRODUCTION = """\
# API

What the package offers to other programs: `from fairnb import …`. These names stay as they are; what lies deeper, such as
`fairnb.swarm`, may change. [CHANGELOG.md](https://github.com/fairnb/fairnb/blob/main/CHANGELOG.md) says what did.
"""


def api_page() -> str:
    """The page, from `fairnb.ROAD`; Sphinx adds signatures and docstrings."""
    text = [INTRODUCTION]
    for part, names in fairnb.ROAD.items():
        text += [f"## {part}", "", "```{eval-rst}", *(_directive(name, room) for name, room in names.items()), "```", ""]
    return "\n".join(text)


def _directive(name: str, room: str) -> str:
    """The directive that documents a name; its kind is told by its case, without an import of the room."""
    if name.isupper():  # the comment on data is found where it is defined
        return f".. autodata:: fairnb.{room}.{name}\n   :no-value:\n"
    return f".. autoclass:: fairnb.{name}\n   :members:\n" if name[0].isupper() else f".. autofunction:: fairnb.{name}\n"


def as_rest(docstring: str) -> str:
    """A docstring as reStructuredText, where only paragraphs, sections and examples are markup, and backticks hold code.

    Sections, such as Args, are Google's. An example is a doctest, or is indented below a blank line and a paragraph that is
    not.
    """
    from sphinx.ext.napoleon import GoogleDocstring  # as an extension it would read "Whether …: …" of a property as a type

    blocks, example = list[str](), False
    for block in re.split(r"\n(?: *\n)+", docstring.strip("\n")):
        below = not blocks or not blocks[-1].splitlines()[-1].startswith(" ")
        if block.startswith(" ") and below and not example:
            blocks.append("::")
        example = block.startswith(" ") and (example or below)
        if not example and not block.startswith(">>>"):
            block = re.sub(r"`([^`]+)`|[*_|\\`]", _code_or_escaped, block)
        blocks.append(block)
    return str(GoogleDocstring("\n\n".join(blocks)))


def _code_or_escaped(found: re.Match[str]) -> str:
    return rf"\ ``{' '.join(found[1].split())}``\ " if found[1] else f"\\{found[0]}"


def _read_docstring(_: Sphinx, what: str, name: str, thing: Any, options: object, lines: list[str]) -> None:
    lines[:] = as_rest("\n".join(lines)).splitlines()


def _shorten(_: Sphinx, what: str, name: str, thing: Any, *rest: Any) -> tuple[str, None] | None:
    """Leave out the fields of a set of parameters, which have a page of their own."""
    return ("(**values)", None) if what == "class" and hasattr(thing, "model_fields") else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Register both; called by Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", _read_docstring)
    app.connect("autodoc-process-signature", _shorten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
