"""The benchmarks of docs/benchmarks.md run, compare like with like, and print their ratios; none is timed here."""

import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from networks import SPECS, a_classifier, music

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TINY_GRID = (
    "features=mfcc", "model=basic", "batch_size=8", "experiment=smoke", "dataset.tracks_per_genre=4",
    "dataset.seconds=4", "trainer.device=cpu",
)  # fmt: skip
SETS = (
    (100, {"features": 1.0, "first_step": 2.0, "memory": 300.0}),
    (1000, {"features": 8.0, "first_step": 9.0, "memory": 330.0}),
)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """Load a benchmark as a module, with the arguments that its `main` will see."""

    def load(name: str, *arguments: str) -> ModuleType:
        spec = spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
        assert spec and spec.loader
        module = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        monkeypatch.syspath_prepend(BENCHMARKS)  # where a script has what it shares with others
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        spec.loader.exec_module(module)
        return module

    return load


def run(name: str, *arguments: str) -> str:
    """What a benchmark prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(printed: str) -> dict[str, list[str]]:
    """Cells of a Markdown table's lines by the first cell, without head and rule."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines() if line[:1] == "|"]
    return {first: rest for first, *rest in cells if not first.startswith(":") and rest and re.match(r"\d", rest[0])}


def test_features_of_the_same_files_are_timed_by_four_ways(
    script: Callable[..., ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    script("features", "--tracks", "2", "--seconds", "0.5", "--rounds", "1").main()
    printed = capsys.readouterr().out
    assert "2 files, 1 s of audio" in printed and "1 rounds in turn" in printed
    found = rows(printed)
    assert list(found) == ["librosa", "torchaudio", "genre_cls", "decoding alone"]
    assert found["genre_cls"][-1] == "1.00" and all(float(cells[-1]) > 0 for cells in found.values())


def test_some_of_many_files_are_chosen_evenly(script: Callable[..., ModuleType]) -> None:
    chosen = script("features").chosen
    assert chosen(range(10), 5) == range(0, 10, 2)
    assert len(chosen(range(639), 100)) == 100 and chosen(range(3), 0) == chosen(range(3), 5) == range(3)


def test_a_file_that_cannot_be_read_is_not_timed_as_if_it_had_been(
    script: Callable[..., ModuleType], tmp_path: Path
) -> None:
    (tmp_path / "a.wav").write_text("no audio")
    with pytest.raises(SystemExit, match=r"a\.wav: "):
        script("features").genre_cls([tmp_path / "a.wav"], tmp_path)


def test_training_steps_are_timed_on_both_inputs_and_a_missing_peer_is_named(
    script: Callable[..., ModuleType], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = script("train_step", "--batch-size", "2", "--batches", "1", "--rounds", "1", "--threads", "1")
    monkeypatch.setattr(benchmark, "SHAPES", {"mfcc": (8, 16), "mel": (16, 16)})
    monkeypatch.setattr(benchmark, "find_spec", lambda name: None)

    def here(options: Namespace, name: str, way: str) -> Any:
        return benchmark.measured(Namespace(**{**vars(options), "input": name, "way": way}))

    monkeypatch.setattr(benchmark, "in_a_process", here)
    benchmark.main()
    head, mfcc, mel = capsys.readouterr().out.split("### ")
    assert "left out Keras" in head
    for printed in (mfcc, mel):
        found = rows(printed)
        assert list(found) == [
            "plain PyTorch", "genre_cls in float32", "genre_cls, freed memory given back", "genre_cls",
        ]  # fmt: skip
        assert found["genre_cls"][-1] == "1.00" and all(float(cells[0]) > 0 for cells in found.values())


def test_predicting_files_is_timed_beside_decoding_them(
    script: Callable[..., ModuleType], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder, model = tmp_path / "music", tmp_path / "model.safetensors"
    folder.mkdir()
    for seed in range(2):
        music(folder / f"{seed}.wav", 1.0, seed)
    a_classifier(SPECS["mel"]).save(model)
    script("predict", str(folder), "--model", str(model), "--rounds", "1", "--hours", "0").main()
    printed = capsys.readouterr().out
    assert "2 files" in printed
    found = rows(printed)
    assert list(found) == ["soundfile alone", "mono at 22050 Hz", "genre_cls"]
    assert found["genre_cls"][-1] == "1.00" and all(float(cells[-1]) >= 1 for cells in found.values())


def test_the_race_is_over_when_the_default_recipe_is_as_good_as_the_tutorials(
    script: Callable[..., ModuleType], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    race, asked = script("race", "dataset=gtzan"), []
    results = iter([{"accuracy": 0.5, "seconds": 400.0}, *({"accuracy": a, "seconds": 2.0} for a in (0.4, 0.5, 0.6))])

    def in_a_process(way: str, overrides: list[str]) -> Any:
        asked.append((way, *overrides))
        return next(results)

    monkeypatch.setattr(race, "find_spec", lambda name: None)
    monkeypatch.setattr(race, "in_a_process", in_a_process)
    race.main()
    assert [words[-1] for words in asked] == ["dataset=gtzan"] * 3
    assert "experiment=tutorial" in asked[0] and "recipe.epochs=2" in asked[2]
    assert list(rows(capsys.readouterr().out).values())[-1] == ["50.0", "2.0", "0.005"]


def test_a_fold_of_the_race_is_tested(script: Callable[..., ModuleType], on_music: tuple[str, ...], here: Path) -> None:
    race = script("race")
    found = race.measured(race.ours, [*on_music, "features=mfcc", "batch_size=4", "trainer.workers=1"])
    assert 0 <= found["accuracy"] <= 1 and found["seconds"] > 0


def test_networks_that_are_not_the_same_are_not_compared(script: Callable[..., ModuleType]) -> None:
    benchmark = script("train_step")
    benchmark.check_same_network({"Keras": 5, "genre_cls": 5})
    with pytest.raises(SystemExit, match=r"not the same network: .*'Keras': 6"):
        benchmark.check_same_network({"Keras": 6, "genre_cls": 5})


def test_the_growth_of_each_cost_is_reported_and_drawn(script: Callable[..., ModuleType], tmp_path: Path) -> None:
    benchmark = script("scale")
    sets = [(n_tracks, cost, {**cost, "features": 0.1}) for n_tracks, cost in SETS]
    assert benchmark.growth(sets).startswith(
        "10 times the tracks, times the cost: cold features 8.00, cold first step 4.50"
    )
    assert benchmark.growth(sets).endswith("warm features 1.00, warm first step 4.50, warm memory 1.10")
    assert rows(benchmark.table(sets))["1000"] == ["8", "0.1", "9", "9", "330", "330", "8.00"]
    benchmark.plot(sets, tmp_path / "scale.png")
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")


def test_nested_phases_count_once_and_for_the_innermost(
    script: Callable[..., ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark = script("grid")
    clock = iter([0.0, 1.0, 3.0, 6.0, 10.0])
    monkeypatch.setattr(benchmark, "perf_counter", lambda: next(clock))
    trace = benchmark.Trace()
    with trace.phase("logging"), trace.phase("training"):
        pass
    assert trace.seconds == {benchmark.REST: 1, "logging": 2 + 4, "training": 3}
    assert rows(benchmark.table(trace.seconds))["training"] == ["3.0", "30.0"]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_the_memory_of_a_process_and_of_what_it_started_is_counted_once(script: Callable[..., ModuleType]) -> None:
    hold = "import subprocess, sys\nheld = b'1' * 100_000_000\nprint(flush=True)\n"
    code = hold + f"subprocess.run([sys.executable, '-c', {hold + 'input()'!r}])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdin
        process.stdout.readline(), process.stdout.readline()
        assert 200 < script("grid").held(process.pid) < 300
        process.stdin.write(b"\n")


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("tensorflow"), reason="needs the extra `bench`")
def test_keras_trains_the_same_network(script: Callable[..., ModuleType]) -> None:
    printed = run("train_step", "--batch-size", "2", "--batches", "1", "--rounds", "1", "--threads", "1")
    for part in printed.split("### ")[1:]:
        assert list(rows(part)) == [
            "Keras", "plain PyTorch", "genre_cls in float32", "genre_cls, freed memory given back", "genre_cls",
        ]  # fmt: skip


@pytest.mark.filterwarnings("error")
def test_the_simulations_of_verdicts_print_shares(
    script: Callable[..., ModuleType], capsys: pytest.CaptureFixture[str]
) -> None:
    verdicts = script("verdicts", "--simulations", "1")
    verdicts.main()
    printed, complaints = capsys.readouterr()
    lines = [line for line in printed.splitlines() if re.match(r"\| (restless )?(class|nearest)", line)]
    assert len(lines) == 2 * 16 + 2 * 11
    shares = [float(share) for line in lines for share in re.findall(r"(\S+) ±", line)]
    assert shares and all(0 <= share <= 100 for share in shares)
    assert complaints == ""


@pytest.mark.slow
def test_a_long_file_is_predicted_in_the_memory_of_a_short_one(tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    a_classifier(SPECS["mel"]).save(model)
    music(tmp_path / "a.wav", 1.0)
    printed = run("predict", str(tmp_path), "--model", str(model), "--rounds", "1", "--hours", "0.5")
    short, long = (float(memory) for memory in re.findall(r"peak memory (\d+) MB", printed))
    assert "a file of 0.5 h: " in printed and long < short + 100


@pytest.mark.slow
def test_sets_of_growing_size_are_started_twice(tmp_path: Path) -> None:
    printed = run("scale", "--sizes", "50", "100", "--plot", str(tmp_path / "scale.png"))
    assert list(rows(printed)) == ["50", "100"] and "2 times the tracks, times the cost: cold features" in printed
    for _, warm, first_cold, _, memory, *_ in rows(printed).values():
        assert float(memory) > 50 and float(first_cold) > 0 and float(warm) >= 0
    assert (tmp_path / "scale.png").exists()


@pytest.mark.slow
def test_the_wall_time_of_a_grid_is_reported_by_phase() -> None:
    printed = run("grid", *TINY_GRID, "--workers", "1")
    found = rows(printed)
    phases = {"imports", "tracks and folds", "checks", "features", "training", "figures", "logging", "report"}
    assert phases < set(found)
    assert sum(float(share) for _, share in found.values()) == pytest.approx(100, abs=0.5)
    assert 0 < float(re.findall(r"not training: ([\d.]+)% of the wall time", printed)[0]) < 100
    memory = int(re.findall(r"peak memory of all processes: (\d+) MB", printed)[0])
    assert memory > 100 if sys.platform == "linux" else memory == 0
