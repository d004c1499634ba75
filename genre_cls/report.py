"""Report on stored runs, without training: `python -m genre_cls.report` compares a store's configurations."""

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig
from rich.console import Console

from genre_cls.configuration.commands import as_command, one_line_errors
from genre_cls.configuration.overrides import check_command_line, is_sweep, key_of
from genre_cls.configuration.settings import CONF, REPORTED, check
from genre_cls.errors import UserError, in_one_line
from genre_cls.files import make_folder, write_atomically
from genre_cls.processes.interrupts import ends_at_once, raise_again
from genre_cls.progress import waiting
from genre_cls.tracking import database

if TYPE_CHECKING:  # MLflow takes seconds to import, which `--help` and a typo need not wait for
    from genre_cls.evaluation.findings import Report
    from genre_cls.tracking.stored_comparison import Comparison
    from genre_cls.tracking.tracker import Tracker

log = logging.getLogger(__name__)

BROWSERS_PLAY = (".flac", ".mp3", ".ogg", ".opus", ".wav")
SETTINGS = sorted(("tracking", *REPORTED))
CHOSEN_ON_GTZAN = (
    "The default recipe was chosen on 639 of GTZAN's tracks, so its scores are too high by an unknown amount."
)
EXPERIMENT = "genre_cls reports"  # separate, so that the other experiments list configurations only


def main() -> None:
    """Write the report of the configurations that finished last."""
    with as_command(), ends_at_once():
        _check_words(sys.argv[1:])
        check_command_line(sys.argv[1:])
        report_only()


def _check_words(words: Sequence[str]) -> None:
    """Refuse sweeps, and settings of training."""
    for word in words:
        if word == "-m" or (word.startswith("--mu") and "--multirun".startswith(word)):
            raise UserError(f"{word}: there is only one report of a store; leave it out")
        if "=" not in word or word.startswith("-"):  # an option of Hydra's, such as --cfg=job
            continue
        key = key_of(word)
        if key not in SETTINGS and not key.startswith("hydra"):
            raise UserError(f"{key}: the report has no such setting; it has {', '.join(SETTINGS)}")
        if is_sweep(word):
            raise UserError(f"{word}: there is only one report of a store, so it takes one value")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="report")
def report_only(cfg: DictConfig) -> None:
    """Write the report; Hydra composes the settings and calls this."""
    raise_again()
    with one_line_errors():  # here too, because Hydra would add a line of its own
        check(cfg)
        if not write_newest(cfg):
            where = " ".join(f"tracking.{key}={value}" for key, value in cfg.tracking.items() if value)
            raise UserError(f"{where}: {_why_none(cfg)}")


def write_newest(cfg: DictConfig, *, command_id: str | None = None) -> bool:
    """Report the configuration that finished last and all comparable ones; return False if there is none.

    Args:
        cfg: with `tracking`, `rope` and `report_dir`.
        command_id: of the command whose last configuration counts as the newest; None for any command.
    """
    with waiting("reading the runs"):
        tracker = _tracker(cfg)
        if not tracker:
            return False
        from genre_cls.tracking.stored_comparison import newest

        with tracker.failures_in_one_line():
            comparison = newest(tracker, cfg.tracking.experiment, command_id=command_id)
    if comparison:
        _write(cfg, tracker, comparison)
    return comparison is not None


def _tracker(cfg: DictConfig) -> "Tracker | None":
    """Return the tracking store; None if there is none, as connecting would create it."""
    if not database.is_store(cfg.tracking.uri or cfg.tracking.folder):
        return None
    from genre_cls.tracking.tracker import Tracker

    return Tracker(cfg.tracking.uri, cfg.tracking.folder)


def _why_none(cfg: DictConfig) -> str:
    """Return why there is nothing to report, and what leads to something."""
    if tracker := _tracker(cfg):
        with tracker.failures_in_one_line():
            if tracker.ended(cfg.tracking.experiment):
                hint = "restore its files, train it again, or name another experiment (tracking.experiment=NAME)"
                return f"what finished last cannot be reported; {hint}"
            if titles := tracker.incomplete(cfg.tracking.experiment):
                hint = f"{titles[0]} lacks folds, which the command that began it trains (without fold=)"
                return f"no configuration has finished there; {hint}"
            if others := tracker.elsewhere():
                return f"no configuration has finished there; some have in {others}"
    return "no configuration has finished there; run python -m genre_cls.train -m first"


def _write(cfg: DictConfig, tracker: "Tracker", comparison: "Comparison") -> None:
    """Show the report on the terminal, write its page and log it."""
    with waiting("drawing the report"):
        from genre_cls.evaluation import page
        from genre_cls.tracking.artifacts import REPORT
        from genre_cls.tracking.connection import ui_command
        from genre_cls.tracking.stored_runs import FAILURES

        report = _report(comparison, cfg.rope)
        files = {REPORT: page.html(report).encode(), "report.md": page.markdown(report).encode()}
    _show(report, comparison.n_left_out)  # first, because it is useful even if the disk is full
    try:
        folder = _write_and_log(cfg, tracker, report.dataset, files)
    except FAILURES as error:  # of a read-only store, say
        folder = _write_files(cfg.report_dir, files)
        log.warning("the report is not logged: %s", in_one_line(error))
    log.info("report: %s", folder / REPORT)
    log.info("compare the runs: %s", ui_command(tracker.uri))


def _show(report: "Report", n_left_out: int) -> None:
    """Print the configurations' table, and log what it does not say."""
    from genre_cls.evaluation import page

    console = Console()
    console.width = max(console.width, 80)  # a narrower table would lose digits
    console.print("", f"Data: {report.dataset}", page.table(report), sep="\n", markup=False, highlight=False)
    for note in report.notes:
        log.warning(note)
    if n_left_out:
        were = "configurations of this command were" if n_left_out > 1 else "configuration of this command was"
        reason = "tested on other tracks or folds (dataset, seed, folds, fold)"
        log.warning("not in this report: %d %s %s", n_left_out, were, reason)


def _write_and_log(cfg: DictConfig, tracker: "Tracker", dataset: str, files: Mapping[str, bytes]) -> Path:
    experiment = tracker.experiment(EXPERIMENT, restore=True)
    with tracker.claim("report", "report") as claim:
        folder = _write_files(cfg.report_dir, files)
        with tracker.run(experiment, dataset, claim | {"kind": "report"}, {}) as run:
            run.log({}, files)
    return folder


def _report(comparison: "Comparison", rope: float) -> "Report":
    """Return the report of a comparison; `rope` is half the width of the region of practical equivalence."""
    from genre_cls.evaluation.findings import Report, warnings
    from genre_cls.tracking.tracker import NOTE

    chosen = CHOSEN_ON_GTZAN if _was_chosen_on(comparison) else ""
    notes = comparison.tags.get(NOTE), chosen, *warnings(comparison.results)
    return Report(
        title="Which features and which CNN classify music genres best?",
        dataset=_evaluated_on(comparison),
        notes=tuple(filter(None, notes)),
        results=comparison.results,
        means=comparison.means,
        provenance=_provenance(comparison),
        rope=rope,
        tracks=comparison.tracks,
        audio=_playable(comparison.tracks),
    )


def _was_chosen_on(comparison: "Comparison") -> bool:
    """Whether a recipe of the results was chosen on the tracks that test it; those of folds=filtered chose nothing."""
    is_default = any(result.value("recipe") == "default" for result in comparison.results)
    return is_default and comparison.tags["dataset"] == "gtzan" and comparison.tags["folds"] != "filtered"


def _evaluated_on(comparison: "Comparison") -> str:
    one = comparison.results[0]  # all were tested on the same tracks
    tracks = f"{len(one.tracks.track_ids)} tested tracks in {len(one.genres)} genres"
    return f"{comparison.tags['dataset']}, {tracks}, folds={comparison.tags['folds']}"


def _write_files(report_dir: str, files: Mapping[str, bytes]) -> Path:
    folder = make_folder("report_dir", report_dir)
    for name, content in files.items():
        write_atomically(folder / name, content)
    return folder


def _playable(tracks: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return the URLs of the tracks that are readable and in formats that browsers play."""
    paths = {track: Path(known["path"]) for track, known in tracks.items()}
    return {
        track: path.as_uri()
        for track, path in paths.items()
        if path.suffix.lower() in BROWSERS_PLAY and os.access(path, os.R_OK)
    }


def _provenance(comparison: "Comparison") -> dict[str, str]:
    """Return where the numbers come from, for the page's last table."""
    from genre_cls.evaluation.comparisons import rank

    shown = {
        "machine": "machine",
        "dataset": "dataset",
        "dataset digest": "dataset_digest",
        "folds": "folds",
        "genre_cls": "version",
        "git commit": "mlflow.source.git.commit",
    }
    known = {label: comparison.tags[tag] for label, tag in shown.items() if tag in comparison.tags}
    best = rank(comparison.results)[0].named
    settings = {"settings of the best": ", ".join(f"{key}={value}" for key, value in best.items())}
    return settings | _commands(comparison.commands) | {"finished": comparison.finished} | known


def _commands(commands: Mapping[str, int]) -> dict[str, str]:
    """Return the commands by label, which says how many configurations each trained if there are several commands."""
    if len(commands) == 1:
        return {"command": next(iter(commands))}
    return {
        f"command {number} ({n} configuration{'s' if n > 1 else ''})": command
        for number, (command, n) in enumerate(commands.items(), start=1)
    }


if __name__ == "__main__":
    from genre_cls import report  # as __main__ it would log under another name, whose lines are not shown

    report.main()
