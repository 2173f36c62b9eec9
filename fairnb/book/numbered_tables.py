"""A Sphinx extension, named in `_config.yml`: numbers a notebook's tables as tables, and aligns numbers to the right."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.transforms import SphinxTransform

from fairnb.book.tables import are_numbers


class captioned_table(nodes.figure):
    """A notebook's table with its caption: shown like a figure, numbered like a table."""


class NumberTablesAsTables(SphinxTransform):
    """Turn a notebook's captioned outputs named `tab-…`, which come as figures, into tables."""

    default_priority = 800

    def apply(self, **_: object) -> None:
        """Replace the nodes."""
        for figure in list(self.document.findall(nodes.figure)):
            if any(name.startswith("tab-") for name in figure["names"]):
                table = captioned_table("", *figure.children, **figure.attributes)
                figure.replace_self(table)
                self.document.ids |= dict.fromkeys(table["ids"], table)  # for references


class SetNumbersRight(SphinxTransform):
    """Give the cells of a column of numbers, and its heading, the class `number`."""

    default_priority = 800

    def apply(self, **_: object) -> None:
        """Mark the tables written in a page; those of a notebook's output are set by `fairnb.book.tables.shown`."""
        for table in self.document.findall(nodes.table):
            headings = sum(len(head) for head in table.findall(nodes.thead))
            for column in zip(*(row.children for row in table.findall(nodes.row)), strict=False):
                if are_numbers(cell.astext() for cell in column[headings:]):
                    for cell in column:
                        cell["classes"].append("number")


def _without_roles(app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Unmark the bibliography as a list: its entries are not list items, which confuses screen readers."""
    if "body" in context:
        context["body"] = context["body"].replace('role="list" class="citation-list"', 'class="citation-list"')


def _one_search(_: Sphinx, config: Config) -> None:
    """Leave out a second search: the theme has one beside the contents."""
    config.html_theme_options.setdefault("navbar_persistent", [])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the transforms; called by Sphinx."""
    app.connect("config-inited", _one_search)
    app.connect("html-page-context", _without_roles)
    visitors = (lambda self, node: self.visit_figure(node), lambda self, node: self.depart_figure(node))
    app.add_enumerable_node(captioned_table, "table", html=visitors)
    app.add_transform(NumberTablesAsTables)
    app.add_transform(SetNumbersRight)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
