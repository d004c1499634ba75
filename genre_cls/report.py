"""The report: `python -m genre_cls.report` lays the tracking store's configurations side by side, without training."""

import logging
import shlex
from collections.abc import Mapping
from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console

from genre_cls.errors import UserError
from genre_cls.settings import CONF, check, one_line_errors

log = logging.getLogger(__name__)

EXPERIMENT = "genre_cls reports"  # apart, so that an experiment lists nothing but its configurations


def main() -> None:
    """Write the report of what finished last."""
    with one_line_errors():
        report_only()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="report")
def report_only(cfg: DictConfig) -> None:
    """Hydra's job."""
    check(cfg)
    write(cfg)


def write(cfg: DictConfig) -> None:
    """Read the newest comparable configurations back, print their table, write the page and log it.

    Args:
        cfg: of it, `tracking` and `report_dir` are used.

    Raises:
        UserError: no configuration has finished yet.
    """
    from genre_cls import page
    from genre_cls.tracking import Tracker

    tracker = Tracker(cfg.tracking.uri, Path(cfg.tracking.folder))
    found = tracker.newest(cfg.tracking.experiment)
    if found is None:
        raise UserError(f"{tracker.uri}: no configuration has finished there; run python -m genre_cls.train -m first")
    note = found.tags["note"]
    report = page.Report(
        title="Which features and which CNN classify music genres best?",
        dataset=found.tags["dataset"],
        notes=(note,) if note else (),
        results=found.results,
        means=found.means,
        provenance=_provenance(found.tags),
    )
    files = {"report.html": page.html(report).encode(), "report.md": page.markdown(report).encode()}
    folder = _write_files(Path(cfg.report_dir), files)
    with tracker.run(tracker.experiment(EXPERIMENT), report.dataset, {"kind": "report"}, {}) as run:
        run.log({}, {}, files)
    Console().print(page.table(report))
    log.info("report: %s", folder / "report.html")
    log.info("compare the runs: %s", ui_command(tracker.uri))


def ui_command(uri: str) -> str:
    """What opens MLflow's pages on a store."""
    local = f"mlflow ui --backend-store-uri {shlex.quote(uri)} --host 127.0.0.1   (then http://127.0.0.1:5000)"
    return local if uri.startswith("sqlite:") else uri


def _write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        partial = folder / f"{name}.partial"
        partial.write_bytes(content)
        partial.replace(folder / name)
    return folder


def _provenance(tags: Mapping[str, str]) -> dict[str, str]:
    """Where the numbers come from, for the page's last table."""
    shown = {
        "command": "command",
        "finished": "finished",
        "machine": "machine",
        "dataset": "dataset",
        "dataset digest": "dataset_digest",
        "folds": "folds",
        "genre_cls": "version",
        "git commit": "mlflow.source.git.commit",
    }
    return {label: tags[tag] for label, tag in shown.items() if tag in tags}


if __name__ == "__main__":
    main()
