"""Test the three forms of a report: the numbers of `scoring`, escaped names, a page that loads nothing."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from itertools import pairwise

import numpy as np
import pytest
from made import a_result
from matplotlib.figure import Figure
from matplotlib.text import Text
from rich.console import Console

from genre_cls.evaluation import figures, findings, page, reading
from genre_cls.evaluation.findings import Report
from genre_cls.evaluation.genre_means import GenreMeans

HOSTILE = "<script>alert('x')</script>|[red]{{ 7 * 7 }}"
MIDDLE = a_result(0.6, 0.7, 0.8, model="middle")
BEST = a_result(0.9, 0.9, 0.8, model="best")
WORST = a_result(0.2, 0.4, 0.3, model="worst", features="mfcc")
MEANS = GenreMeans("mel", ("blues", "rock"), np.ones((2, 8, 9), np.float32), 0.1, np.geomspace(100, 9000, 8))
BOTH_MEANS = (MEANS, replace(MEANS, kind="mfcc"))
REPORT = Report("A title", "demo", ("It is synthetic.",), (MIDDLE, WORST, BEST), BOTH_MEANS, {"seed": "7"}, 0.01)
TINY = Report("Tiny", "own", (), (a_result(0.5),), (), {}, 0.01)


class Reader(HTMLParser):
    """Collects the tags with their attributes and the text outside of styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data if self.tags and self.tags[-1][0] != "style" else ""


@pytest.fixture(scope="module")
def html() -> str:
    return page.html(REPORT)


def in_terminal(report: Report, width: int = 220) -> str:
    screen = StringIO()
    Console(file=screen, width=width).print(page.table(report))
    return screen.getvalue()


def columns(report: Report) -> list[str]:
    head = next(line for line in page.markdown(report).splitlines() if line.startswith("| rank |"))
    return head.strip("| ").split(" | ")


def test_the_table_ranks_by_accuracy_in_all_three_forms(html: str) -> None:
    for text in (in_terminal(REPORT), page.markdown(REPORT).partition("| rank")[2], html.partition("<tbody>")[2]):
        assert text.index("best") < text.index("middle") < text.index("worst")


def test_the_table_shows_the_numbers_of_scoring(html: str) -> None:
    for text in (in_terminal(REPORT), page.markdown(REPORT), html):
        for result in REPORT.results:
            e, std = result.estimate("accuracy"), np.std([fold.hits.mean() for fold in result.folds], ddof=1)
            low, high = max(0, 100 * e.low), min(100, 100 * e.high)
            assert f"{100 * e.mean:.1f} ± {100 * std:.1f}" in text and f"{low:.1f}–{high:.1f}" in text
            assert f"{100 * result.estimate('macro_f1').mean:.1f}" in text
        assert "12.0" in text and "1,234,567" in text


def test_intervals_end_where_accuracies_do() -> None:
    text = in_terminal(replace(REPORT, results=(a_result(1.0, 0.8), a_result(0.0, 0.2))))
    assert "–100.0" in text and " 0.0–" in text


def test_parameters_are_columns_only_if_they_differ() -> None:
    assert "recipe.epochs" not in columns(REPORT)
    other = replace(REPORT, results=(BEST, a_result(0.1, 0.1, 0.1, **{"recipe.epochs": "9"})))
    assert "recipe.epochs" in columns(other)
    assert columns(TINY)[:4] == ["rank", "features", "model", "batch size"]


def test_the_table_fits_a_terminal_of_eighty_columns() -> None:
    perfect = a_result(1.0, 1.0, 1.0, features="mfcc", model="basic")
    text = in_terminal(replace(REPORT, results=(perfect, *REPORT.results)), width=80)
    rows = [line for line in text.splitlines() if re.match(r"\d ", line)]
    assert len(rows) == 1 + len(REPORT.results) and all("–" in row and "1,234,567" in row for row in rows)
    assert "mfcc      basic" in rows[0] and "100.0 ± 0.0" in rows[0]


def test_a_terminal_shows_settings_in_columns_only_if_they_are_the_axes() -> None:
    assert "batch" in in_terminal(REPORT).partition("\n1 ")[0] and "configuration" not in in_terminal(TINY)
    other = in_terminal(replace(REPORT, results=(BEST, a_result(0.1, **{"recipe.features": "9"}))))
    head, _, rows = other.partition("The best of")[0].partition("─")
    assert "configuration" in head and "features" not in head and "recipe.features 9" in " ".join(rows.split())


def test_eighty_columns_are_enough_for_any_number_of_settings() -> None:
    settings = {"model.dropout": "0.3", "recipe.optimizer.weight_decay": "0.001", "recipe.augmentation.mixup": "0.2"}
    views = "[plain,modulation,statistics,mfcc_modulation,mfcc_statistics]"
    apart = {"recipe.window": "3.0", "other.window": "9.0", "recipe.members": views}
    others = (a_result(0.1, **settings), a_result(0.2, **settings, **apart))
    rows = in_terminal(replace(REPORT, results=(BEST, *others)), width=80).partition("The best of")[0]
    assert "…" not in rows and "model.dropout" not in rows
    for words in ("dropout 0.3", "weight_decay 0.001", "mixup 0.2", "recipe.window 3.0", "other.window 9.0"):
        assert words in " ".join(rows.split())
    assert views in "".join(rows.split())


def test_the_answer_names_best_worst_and_chance(html: str) -> None:
    answer = findings.answer(REPORT)
    assert "mel · best · batch 16, recognises the genre of 86.7 %" in answer
    assert "The worst, mfcc · worst · batch 16, recognises 30.0 %" in answer
    assert "largest genre would score 50.0 %" in answer
    assert f"). This is {findings.ABOUT_SELECTION}. The worst, " in answer and "optimistic by an unknown" in answer
    assert findings.ABOUT_SELECTION in " ".join(Reader(html).text.partition("curse")[2].split())
    assert "selected" not in findings.answer(TINY)
    assert answer in page.markdown(REPORT) and answer in Reader(html).text


def test_one_configuration_with_one_fold_and_two_genres_is_a_report() -> None:
    low, high = (100 * share for share in TINY.results[0].estimate("accuracy").share_interval)
    assert f"| 50.0 | {low:.1f}–{high:.1f} |" in page.markdown(TINY) and f"{low:.1f}–{high:.1f}" in in_terminal(TINY)
    text = Reader(page.html(TINY)).text
    assert "worst" not in text and "± and interval" not in text and "single fold" in text


def test_mistakes_are_shares_of_the_true_genre() -> None:
    result = a_result(0.9, 0.6, genres=("blues", "jazz", "rock"))
    lines = page.markdown(replace(TINY, results=(result,))).splitlines()
    assert "| blues | 20 | 75 % | 75 % | 75 % | jazz 25 % |" in lines
    assert "| rock | 20 | 75 % | 75 % | 75 % | blues 25 % |" in lines


def test_the_page_references_nothing_outside_of_itself(html: str) -> None:
    tags = Reader(html).tags
    sources = [attributes["src"] or "" for _, attributes in tags if "src" in attributes]
    assert len(sources) == 8 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in tags}
    assert not any("href" in attributes for _, attributes in tags)
    assert not re.search(r"https?://|url\(|@import", html)


def test_every_picture_has_an_alternative_text_and_a_caption(html: str) -> None:
    tags = Reader(html).tags
    assert all(attributes["alt"] for tag, attributes in tags if tag == "img")
    assert sum(tag == "figcaption" for tag, _ in tags) == sum(tag == "img" for tag, _ in tags) == 8


def test_notes_and_provenance_are_shown(html: str) -> None:
    for text in (html, page.markdown(REPORT)):
        assert "It is synthetic." in text and "seed" in text and "demo" in text


def test_hostile_names_stay_text_everywhere() -> None:
    result = a_result(0.7, genres=(HOSTILE, "rock"), model=HOSTILE)
    report = Report(HOSTILE, HOSTILE, (HOSTILE,), (result,), (), {HOSTILE: HOSTILE}, 0.01)
    reader = Reader(page.html(report))
    assert "script" not in {tag for tag, _ in reader.tags} and reader.text.count(HOSTILE) >= 7
    assert HOSTILE in in_terminal(report)
    markdown = page.markdown(report)
    assert not re.search(r"(?<!\\)[<>\[]", re.sub(r"(?m)^> ", "", markdown))
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 10 for row in markdown.splitlines() if row.startswith("| 1 "))


def test_both_pages_state_the_limits_of_mcnemars_test_and_of_other_splits(html: str) -> None:
    first, *others = REPORT.results
    elsewhere = replace(first, other_splits={"filtered": a_result(0.5, 0.5, 0.5)})
    report = replace(REPORT, results=(elsewhere, *others))
    for text in (html, page.html(report), page.markdown(report)):
        plain = " ".join(Reader(text).text.split()) if text.startswith("<!") else text
        assert reading.ABOUT_PAIRS in plain
        assert (reading.ABOUT_SPLITS in plain) == (text is not html)
    assert "McNemar" not in page.markdown(TINY)


@pytest.mark.parametrize("one", [True, False])
def test_the_report_states_what_an_interval_treats_as_independent(one: bool) -> None:
    folds = [replace(fold, track_ids=BEST.folds[0].track_ids) for fold in BEST.folds[: 1 if one else 3]]
    known = {track: track for track in folds[0].track_ids}
    for groups, told in ((known, "groups as independent"), ({}, "Tracks are treated as independent")):
        judged = replace(BEST, folds=tuple(folds), groups=groups)
        assert told in Reader(page.html(replace(REPORT, results=(judged,)))).text


def test_both_pages_say_how_to_read_them(html: str) -> None:
    markdown = page.markdown(REPORT).replace("\\", "")
    text = " ".join(Reader(html).text.split())
    for term, told in reading.how_to_read(REPORT).items():
        assert f"- **{term}.** {told}" in markdown and f"{term}. {told}" in text
    about = reading.about_missed(REPORT)
    assert "missed by" in markdown and about in markdown and about in text
    assert {"± and 95 % CI", "Winner's curse"} < reading.how_to_read(REPORT).keys()


def test_the_best_one_stands_out_in_a_terminal() -> None:
    assert [row.style for row in page.table(REPORT).rows] == ["bold", None, None]


def test_every_figure_of_the_page_carries_the_note(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(figures, "png", lambda figure: drawn.append(figure) or b"")
    page.html(REPORT)
    assert len(drawn) == 8
    for figure in drawn:
        assert "It is synthetic." in {text.get_text() for text in figure.findobj(Text)}


def test_names_are_aligned_on_the_left_and_numbers_on_the_right_in_markdown() -> None:
    head, rule = next(pair for pair in pairwise(page.markdown(REPORT).splitlines()) if pair[0].startswith("| rank |"))
    sides = dict(zip(head.strip("| ").split(" | "), rule.strip("| ").split(" | "), strict=True))
    assert sides["model"] == ":--" and sides["parameters"] == sides["accuracy, %"] == "--:"
