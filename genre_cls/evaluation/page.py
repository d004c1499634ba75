"""Lay out a report as a terminal table, as Markdown and as one self-contained HTML page."""

import re
from base64 import b64encode
from textwrap import fill

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from genre_cls.evaluation import figures, findings, plots, reading, tables
from genre_cls.evaluation.findings import Report
from genre_cls.evaluation.tables import Sheet


def table(report: Report) -> Table:
    """Return the ranked configurations as a table for a terminal, with the answer and the verdicts below."""
    sheet = tables.ranking(report, narrow=True)
    caption = Text("\n".join(["", findings.answer(report), *findings.verdicts(report)]))
    # Without edges even rows of 100.0 ± 0.0 % fit into 80 columns.
    grid = Table(
        caption=caption, caption_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True
    )
    for name, side in sheet.columns.items():
        # Headers on two lines leave room for the cells in 80 columns.
        head = Text(fill(name, 8, break_long_words=False))
        may_be_long = name in ("model", "configuration")
        grid.add_column(head, justify="left" if side == "left" else "right", no_wrap=not may_be_long, overflow="fold")
    for place, row in enumerate(sheet.rows):
        grid.add_row(*map(Text, row), style=None if place else "bold")
    return grid


def markdown(report: Report) -> str:
    """Return the whole report without its figures as GitHub Markdown."""
    provenance = Sheet({"what": "left", "value": "left"}, list(report.provenance.items()))
    sections = (
        ("Which genres the best one recognises", tables.genres(report), ""),
        ("The same under other splits", tables.under_other_splits(report), reading.ABOUT_SPLITS),
        ("Recall lost in each genre", tables.drops_by_genre(report), reading.ABOUT_DROPS),
        ("Which tracks are missed most", tables.missed_tracks(report), reading.about_missed(report)),
        ("How far its probabilities can be trusted", tables.confidence(report), findings.trust(report)),
        ("Each against each", tables.each_against_each(report), reading.about_pairs(report)),
    )
    topics = [f"- **{_escaped(term)}.** {_escaped(text)}" for term, text in reading.how_to_read(report).items()]
    blocks = [
        f"# {_escaped(report.title)}",
        f"Data: {_escaped(report.dataset)}",
        _escaped(findings.answer(report)),
        "\n".join(f"- {_escaped(verdict)}" for verdict in findings.verdicts(report)),
        *(f"> {_escaped(note)}" for note in report.notes),
        _pipes(tables.ranking(report)),
        *(f"## {title}\n\n{_pipes(sheet)}\n\n{_escaped(about)}".rstrip() for title, sheet, about in sections if sheet),
        "## How to read this\n\n" + "\n".join(topics),
        f"## Where the numbers come from\n\n{_pipes(provenance)}",
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def html(report: Report) -> str:
    """Return one HTML page that contains its style and figures, so that it needs no network."""
    environment = Environment(
        loader=PackageLoader("genre_cls.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    template = environment.get_template("report.html.j2")
    parts = {"findings": findings, "plots": plots, "reading": reading, "tables": tables}
    return template.render(report=report, note=" ".join(report.notes), **parts)


def _data_uri(figure: Figure) -> str:
    return "data:image/png;base64," + b64encode(figures.png(figure)).decode()


def _pipes(sheet: Sheet) -> str:
    """Return a Markdown table."""
    rules = [":--" if side == "left" else "--:" for side in sheet.columns.values()]
    return "\n".join("| " + " | ".join(map(_escaped, cells)) + " |" for cells in [sheet.columns, rules, *sheet.rows])


def _escaped(text: str) -> str:
    """Return text as one line in which Markdown finds no table bar, tag, code or emphasis."""
    return re.sub(r"([\\`*~|<>\[\]]|\b_|_\b)", r"\\\1", " ".join(text.split()))
