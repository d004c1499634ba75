"""Shared by the tests: tiny music, composed settings, the command in this process, and one sweep as users start it."""

import errno
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import forkserver
from pathlib import Path
from time import sleep
from typing import Any
from urllib.request import url2pathname

import numpy as np
import pytest
import soundfile
import torch
from filelock import FileLock
from forks import ended, fork
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Run
from omegaconf import DictConfig

from genre_cls import train
from genre_cls.configuration.settings import CONF
from genre_cls.evaluation import figures
from genre_cls.processes import workers
from genre_cls.tracking.tracker import Tracker
from genre_cls.tracks.catalogue import Track
from genre_cls.tracks.feature_cache import Features
from genre_cls.tracks.features import CPU, FeatureSpec
from genre_cls.tracks.folds import Fold
from genre_cls.training import task
from genre_cls.training.data import FoldData, Windowing

GENRES = ("hiss & noise", "tones, pure")  # names that a careless CSV or metric would trip over
N_TRACKS = 6  # of each genre
TINY = ("recipe.epochs=2", "recipe.window=0.5", "folds.k=2", "recipe.members=[plain]")
ALL_VIEWS = "recipe.members=[plain,modulation,statistics]"
RATE = 22050

Compose = Callable[..., DictConfig]


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    folder: Path
    code: int
    out: str
    err: str

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.folder}/mlruns/mlflow.db")

    @cached_property
    def parents(self) -> list[Run]:
        return [run for run in self._runs if run.data.tags["kind"] == "config"]

    @property
    def mistake(self) -> str:
        """The one line with which it ended over a mistake in the command, having said nothing else."""
        assert (self.code, self.out) == (2, ""), self.err
        (line,) = self.err.splitlines()
        assert line.startswith("error: ")
        return line

    def children(self, parent: Run) -> list[Run]:
        return [run for run in self._runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]

    @cached_property
    def _runs(self) -> list[Run]:
        client = self.client
        ids = [experiment.experiment_id for experiment in client.search_experiments()]
        return list(client.search_runs(ids, order_by=["attributes.start_time ASC"]))

    def files(self, run: Run) -> dict[str, Path]:
        folder = Path(url2pathname(run.info.artifact_uri.removeprefix("file://")))
        return {path.name: path for path in folder.iterdir()}


Command = Callable[..., Outcome]


def timeless(run: Run) -> dict[str, float]:
    """A run's metrics that do not depend on how fast the machine is."""
    return {name: value for name, value in run.data.metrics.items() if not name.startswith("seconds")}


def once(folder: Path, make: Callable[[Path], Outcome]) -> Outcome:
    """Make something in a folder, or wait for the process of this session that is making it, and take what came out."""
    result = folder / "outcome.pickle"
    with FileLock(f"{folder}.lock"):
        if not result.exists():
            folder.mkdir()
            result.write_bytes(pickle.dumps(make(folder)))
    return pickle.loads(result.read_bytes())


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """What the tests and the commands that they start compute is too small to be shared among threads."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def workers_import_once() -> None:
    """The process that workers are forked from lives as long as this one, whichever test starts it."""
    if workers.METHOD == "forkserver":
        forkserver.set_forkserver_preload(["genre_cls.processes.die_with_parent", *train.IMPORTED_AHEAD])


@pytest.fixture(scope="session")
def tiny_music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two genres that are easily told apart, six tracks of 1.2 s each."""
    root = tmp_path_factory.mktemp("audio") / "my music"
    random = np.random.default_rng(0)
    time = np.arange(int(1.2 * RATE)) / RATE
    for number in range(N_TRACKS):
        sounds = 0.2 * random.normal(size=len(time)), 0.5 * np.sin(2 * np.pi * 220 * (1 + number) * time)
        for genre, sound in zip(GENRES, sounds, strict=True):
            (root / genre).mkdir(parents=True, exist_ok=True)
            soundfile.write(root / genre / f"{number}.wav", sound, RATE)
    return root


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that all tests fill together."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def on_music(tiny_music: Path, tiny_cache: Path) -> tuple[str, ...]:
    """What every command gets: the tiny music, the shared cache, a tiny recipe."""
    return ("dataset=folder", f"dataset.root={tiny_music}", f"cache_dir={tiny_cache}", "trainer.device=cpu", *TINY)


@pytest.fixture(scope="session")
def composed() -> Compose:
    """Compose settings as the command does, with Hydra's own among them."""

    def settings(*overrides: str, config: str = "config") -> DictConfig:
        GlobalHydra.instance().clear()
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            return compose(config, list(overrides), return_hydra_config=True)

    return settings


@pytest.fixture
def heeding_ctrl_c() -> Iterator[None]:
    """As from a terminal: a shell that runs the tests in the background has them, and what they start, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def lock(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let nobody list a folder, not even root, who may list any."""
    real = os.scandir

    def scandir(path: str) -> Any:
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


def held_for_a_second(lock: Path) -> None:
    """Have another thread hold a lock, as another process would."""
    ready = threading.Event()

    def hold() -> None:
        with FileLock(lock):
            ready.set()
            sleep(1)

    threading.Thread(target=hold).start()
    ready.wait()


def features_of(clips: Sequence[np.ndarray]) -> Features:
    """Matrices as if a cache had given them."""
    matrices = tuple(np.asarray(clip, dtype=np.float16) for clip in clips)
    tracks = tuple(Track(str(i), Path(str(i)), "") for i in range(len(clips)))
    return Features(FeatureSpec(kind="mel", n_mels=len(matrices[0])), tracks, matrices, (), "")


def fold_data(
    clips: Sequence[np.ndarray], labels: Sequence[int], fold: Fold | None = None, device: torch.device = CPU,
    **windowing: Any,
) -> FoldData:  # fmt: skip
    """Give clips of any lengths the form of a fold's data, by default with every third track held out."""
    everyone = np.arange(len(clips))
    fold = fold or Fold(0, everyone[everyone % 3 > 0], everyone[:0], everyone[::3])
    cut = {"n_frames": 8, "overlap": 0.0, "batch_size": 4, "seed": 0, "view": "plain", "crops": ()} | windowing
    return FoldData(features_of(clips), np.array(labels), fold, Windowing(**cut), device)


@pytest.fixture(scope="session")
def fresh_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store in which nothing is yet; making one takes seconds, so most tests begin with a copy."""
    folder = tmp_path_factory.mktemp("fresh")
    Tracker(None, folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, isolated from the user's own cache, data and tracking server."""
    folder = tmp_path / "a place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name, value in _environment(tiny_cache).items():
        monkeypatch.setenv(name, value)
    for name in ("MLFLOW_TRACKING_URI", "GTZAN_ROOT"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def store_folder(tmp_path: Path, fresh_store: Path) -> Path:
    """The folder of an MLflow store in which nothing is yet."""
    return shutil.copytree(fresh_store, tmp_path / "a folder with spaces" / "mlruns")


@pytest.fixture
def tracker(store_folder: Path) -> Tracker:
    """A connection to it."""
    return Tracker(None, store_folder)


@pytest.fixture
def store_here(here: Path, fresh_store: Path) -> Path:
    """A store where a command that runs here looks for one."""
    return shutil.copytree(fresh_store, here / "mlruns")


@pytest.fixture
def command(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process, which spares its imports; exceptions but SystemExit come out."""

    def run(main: Callable[[], None], *arguments: str) -> Outcome:
        GlobalHydra.instance().clear()
        task._log_skipped.cache_clear()
        monkeypatch.setattr(sys, "argv", ["genre_cls/train.py", *arguments])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return Outcome(here, code, out, err)

    return run


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are drawn as always, but not rendered, which takes a third of the time of a command on tiny music."""
    monkeypatch.setattr(figures, "png", _blank())


def _blank() -> Callable[[Figure], bytes]:
    blank = figures.png(Figure((0.1, 0.1)))
    return lambda figure: blank


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A disk of its own, by `small_disk(kilobytes)`; called again it gets another size, or becomes read-only."""
    folder = tmp_path / "small disk"

    def mounted(kilobytes: int, mode: str = "rw") -> Path:
        there = folder.is_mount()
        options = f"size={kilobytes}k,{mode}" + (",remount" if there else "")
        folder.mkdir(exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        assert not (done.returncode and there), done.stderr
        if done.returncode:
            pytest.skip("cannot mount a small disk here")
        return folder

    if not shutil.which("mount"):
        pytest.skip("cannot mount a small disk here")
    yield mounted
    if folder.is_mount():
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture(scope="session")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what is made `once`, whichever of this session's processes (pytest-xdist) needs it."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session", autouse=True)
def sweep_under_way(
    request: pytest.FixtureRequest, one_thread: None, tiny_music: Path, on_music: tuple[str, ...], together: Path
) -> Iterator[Future[Outcome] | None]:
    """The grid as a user starts it, on the tiny music and a file that is not audio; it runs beside the other tests."""

    def make(folder: Path) -> Outcome:
        root = shutil.copytree(tiny_music, folder / tiny_music.name)
        (root / GENRES[0] / "broken.wav").write_text("no audio")
        own = (f"dataset.root={root}", f"cache_dir={folder / 'cache'}", "max_unreadable=0.1", ALL_VIEWS)
        return _train(folder / "a place", folder / "cache", *on_music, *own)

    if not any("sweep" in getattr(item, "fixturenames", ()) for item in request.session.items):
        yield None
        return
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(once, together / "sweep", make)


@pytest.fixture(scope="session")
def sweep(sweep_under_way: Future[Outcome]) -> Outcome:
    """What the grid left behind."""
    return sweep_under_way.result()


@pytest.fixture(scope="session")
def trained(on_music: tuple[str, ...], tiny_cache: Path, fresh_store: Path, together: Path) -> Outcome:
    """Four small configurations with ensembles of two, good ones and bad ones, the last one bad, to predict with."""
    grid = ("features=mel,mfcc", "model=basic,tutorial_basic", "batch_size=4", "trainer.workers=1", "seed=4")
    # With this seed no two are best; with last layers fitted again, all would be perfect.
    recipe = ("recipe.members=[plain,modulation]", "recipe.first_crop=1", "recipe.ridge=0")

    def make(folder: Path) -> Outcome:
        shutil.copytree(fresh_store, folder / "a place" / "mlruns")
        return _train_in_a_fork(folder / "a place", tiny_cache, *on_music, *grid, *recipe)

    return once(together / "trained", make)


def _train(folder: Path, cache: Path, *arguments: str) -> Outcome:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "genre_cls.train", "-m", *arguments],
        cwd=folder, env=os.environ | _environment(cache), capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    return Outcome(folder, done.returncode, done.stdout, done.stderr)


def _train_in_a_fork(folder: Path, cache: Path, *arguments: str) -> Outcome:
    """The same as `_train`, sooner, without pictures."""

    def prepare() -> None:
        os.chdir(folder)
        os.environ.update(_environment(cache))
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder.parent / name, os.O_WRONLY | os.O_CREAT), number)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        figures.png = _blank()

    code = ended(fork(prepare, "-m", *arguments))
    return Outcome(folder, code, *((folder.parent / name).read_text() for name in ("out", "err")))


@pytest.fixture(scope="session")
def quick_help(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """What a command's `--help` prints, which loads nothing heavy, says nothing else and leaves nothing."""

    def shown(module: str) -> str:
        folder = tmp_path_factory.mktemp("help")
        code = (
            f"import sys\nfrom {module} import main\n"
            "try:\n    main()\n"
            "finally:\n    print('heavy:', {'torch', 'mlflow', 'pytorch_lightning'} & set(sys.modules))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "--help"], cwd=folder, capture_output=True, text=True, check=True
        )
        assert "heavy: set()" in done.stdout and done.stderr == "" and not list(folder.iterdir())
        return done.stdout

    return shown


def _environment(cache: Path) -> Mapping[str, str]:
    return {"GENRE_CLS_CACHE": str(cache), "COLUMNS": "200"}


def free_port() -> int:
    """A port of this machine's that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
