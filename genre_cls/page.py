"""A report as data, and the three ways to show it: terminal table, Markdown, one self-contained HTML page."""

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from textwrap import fill

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from genre_cls import plots
from genre_cls.scoring import ConfigResult, GenreMeans, confusions, differing, names, rank


@dataclass(frozen=True)
class Report:
    """Everything that a report tells.

    Args:
        title: of the page.
        dataset: its name.
        notes: what a reader must know about the data, such as that it is synthetic.
        results: the configurations, at least one, in any order.
        means: average features per genre, one for each kind of feature.
        provenance: where the numbers come from: command, date, machine, version, ...
    """

    title: str
    dataset: str
    notes: tuple[str, ...]
    results: tuple[ConfigResult, ...]
    means: tuple[GenreMeans, ...]
    provenance: Mapping[str, str]


def table(report: Report) -> Table:
    """The ranked configurations for a terminal."""
    rows = _rows(report)
    caption = Text(answer(report))
    grid = Table(caption=caption, caption_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    # Heads in two lines leave the cells room on 80 columns.
    for column in rows[0].settings:
        grid.add_column(Text(fill(column, 8, break_long_words=False)))
    for column in rows[0].scores:
        grid.add_column(Text(fill(column, 8, break_long_words=False)), justify="right", no_wrap=True)
    for row in rows:
        grid.add_row(*map(Text, row.cells), style="bold" if row is rows[0] else None)
    return grid


def markdown(report: Report) -> str:
    """Answer, notes, ranked configurations, mistakes and provenance as GitHub Markdown."""
    rows = _rows(report)
    columns = [(name, ":--") for name in rows[0].settings] + [(name, "--:") for name in rows[0].scores]
    mistakes = [(m.genre, m.tracks, m.recall, m.taken_for) for m in _mistakes(rank(report.results)[0])]
    blocks = [
        f"# {_escaped(report.title)}",
        f"Data: {_escaped(report.dataset)}",
        _escaped(answer(report)),
        *(f"> {_escaped(note)}" for note in report.notes),
        _pipes(columns, (row.cells for row in rows)),
        "## What the best one takes each genre for",
        _pipes([("genre", ":--"), ("tracks", "--:"), ("recognised", "--:"), ("most often taken for", ":--")], mistakes),
        "## Where the numbers come from",
        _pipes([("what", ":--"), ("value", ":--")], report.provenance.items()),
    ]
    return "\n\n".join(blocks) + "\n"


def html(report: Report) -> str:
    """One page with its style and pictures inside; it opens anywhere and asks the network for nothing."""
    environment = Environment(
        loader=PackageLoader("genre_cls", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    ranked = rank(report.results)
    return environment.get_template("report.html.j2").render(
        report=report,
        answer=answer(report),
        rows=_rows(report),
        best=ranked[0],
        best_name=names(ranked)[0],
        worst=ranked[-1],
        mistakes=_mistakes(ranked[0]),
        plots=plots,
        note=" ".join(report.notes),
    )


def answer(report: Report) -> str:
    """Which configuration is best and by how much, in a sentence."""
    ranked = rank(report.results)
    called, best = names(ranked), ranked[0]
    tracks = best.confusion.sum(axis=1)
    chance = f"always naming the largest genre would be right for {_percent(tracks.max() / tracks.sum())} %"
    score = f"{_percent(best.estimate('accuracy').mean)} % of the held-out tracks"
    if len(best.folds) > 1:
        score += f" (95 % interval {_interval(best)} %)"
    if len(ranked) == 1:
        return f"{called[0]} recognises the genre of {score}; {chance}."
    worst = f"the worst, {called[-1]}, recognises {_percent(ranked[-1].estimate('accuracy').mean)} %"
    first = f"The best of {len(ranked)} configurations, {called[0]}, recognises the genre of {score}"
    return f"{first}; {worst}, and {chance}."


@dataclass(frozen=True)
class _Row:
    """A configuration as texts by column: what was set, aligned left, and what came out, aligned right."""

    settings: Mapping[str, str]
    scores: Mapping[str, str]

    @property
    def cells(self) -> list[str]:
        return [*self.settings.values(), *self.scores.values()]


@dataclass(frozen=True)
class _Mistakes:
    """What one genre is taken for, as texts."""

    genre: str
    tracks: str
    recall: str
    taken_for: str


def _rows(report: Report) -> list[_Row]:
    """The configurations, best first."""
    keys = ["features", "model", "batch_size", *differing(report.results)]
    unequal = len({len(result.folds) for result in report.results}) > 1
    rows = []
    for place, result in enumerate(rank(report.results), start=1):
        settings = {key.replace("_", " ") if key == "batch_size" else key: result.params.get(key, "?") for key in keys}
        folds = {"folds": str(len(result.folds))} if unequal else {}
        rows.append(_Row({"rank": str(place)} | settings, folds | _scores(result)))
    return rows


def _scores(result: ConfigResult) -> dict[str, str]:
    accuracy = result.estimate("accuracy")
    one = len(result.folds) == 1
    return {
        "accuracy, %": _percent(accuracy.mean) + ("" if one else f" ± {_percent(accuracy.std)}"),
        "95 % interval": "one fold" if one else _interval(result),
        "macro F1, %": _percent(result.estimate("macro_f1").mean),
        "s per fold": f"{result.seconds_per_fold:.1f}",
        "parameters": f"{result.n_parameters:,}",
    }


def _mistakes(result: ConfigResult) -> list[_Mistakes]:
    """Genres by recall, best first, each with the three it is most often taken for."""
    genres, totals, recall = result.genres, result.confusion.sum(axis=1), result.recall
    wrong = confusions(result.confusion)
    lines = []
    for i in sorted(range(len(genres)), key=lambda i: -recall[i]):
        shares = [f"{genres[other]} {100 * n / totals[i]:.0f} %" for true, other, n in wrong if true == i]
        lines.append(_Mistakes(genres[i], str(totals[i]), f"{100 * recall[i]:.0f} %", ", ".join(shares[:3]) or "none"))
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _interval(result: ConfigResult) -> str:
    low, high = result.estimate("accuracy").share_interval
    return f"{_percent(low)}–{_percent(high)}"


def _data_uri(figure: Figure) -> str:
    return "data:image/png;base64," + b64encode(plots.png(figure)).decode()


def _pipes(columns: list[tuple[str, str]], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table of columns (name, alignment)."""
    heads, rules = zip(*columns, strict=True)
    return "\n".join("| " + " | ".join(map(_escaped, cells)) + " |" for cells in [heads, rules, *rows])


def _escaped(text: str) -> str:
    """One line in which Markdown finds no table bar, tag, link, code or emphasis."""
    return re.sub(r"([\\`*|<>\[\]])", r"\\\1", " ".join(text.split()))
