"""Files per second that are predicted, compared to those merely decoded; and a long file's time and memory.

Run as `python benchmarks/predict.py FOLDER --model MODEL [--tracking STORE]`; docs/benchmarks.md has results.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from common import OURS, Paths, Way, compared, in_turn, measured_apart, peak_memory, timed

from genre_cls import GenreClassifier
from genre_cls.tracks.audio import segments
from genre_cls.tracks.listing import audio_files

RATE = 22050
BLOCK = 60  # s of a long file that are generated at once


def main() -> None:
    """Time all ways in turn; then predict a long file in a separate process."""
    options = _options()
    if options.long:
        print(json.dumps(one_long(options)))
        return
    classifier, paths = GenreClassifier.load(options.model, tracking=options.tracking), audio_files(options.folder)
    times = in_turn(all_ways(classifier), paths, options.rounds)
    print(f"{len(paths)} files, {os.cpu_count()} cores, {options.rounds} rounds in turn\n")
    rates = {way: [len(paths) / each for each in seconds] for way, seconds in times.items()}
    print(compared(rates, "files/s", digits=1))
    if options.hours:
        print(f"\n{growth(*(in_a_process(options, hours) for hours in (options.hours / 10, options.hours)))}")


def all_ways(classifier: GenreClassifier) -> dict[str, Way]:
    """Return the ways: decoding by soundfile, decoding to mono at a model's rate, and predicting, file by file."""

    def decoding(paths: Paths) -> None:
        for path in paths:
            soundfile.read(path, dtype="float32")

    def resampling(paths: Paths) -> None:
        for path in paths:
            for _ in segments(path, RATE, longest=60.0):
                pass

    def predicting(paths: Paths) -> None:
        for path in paths:
            classifier.predict(path)

    return {"soundfile alone": decoding, f"mono at {RATE} Hz": resampling, OURS: predicting}


def growth(short: dict[str, float], long: dict[str, float]) -> str:
    """Describe how time and memory grow with a file's length."""
    return "\n".join(
        f"a file of {one['hours']:g} h: {one['seconds']:.1f} s, peak memory {one['memory']:.0f} MB, "
        f"{one['memory'] - one['before']:.0f} MB of it since the model was loaded"
        for one in (short, long)
    )


def in_a_process(options: argparse.Namespace, hours: float) -> dict[str, float]:
    """Predict a generated file of this length in a separate process; return its time, s, and memory, MB."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "long.wav")
        generate(path, hours)
        arguments = [str(path), "--long", "--model", options.model, "--tracking", options.tracking]
        return {"hours": hours, **measured_apart(__file__, *arguments)}


def generate(path: Path, hours: float) -> None:
    """Write noise to a file, block by block."""
    random = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        for _ in range(max(1, round(hours * 3600 / BLOCK))):
            file.write(0.1 * random.standard_normal(BLOCK * RATE, dtype=np.float32))


def one_long(options: argparse.Namespace) -> dict[str, Any]:
    """Return the time to predict the one file, s, and the process's peak memory before and after, MB."""
    classifier = GenreClassifier.load(options.model, tracking=options.tracking)
    before, seconds = peak_memory(), timed(lambda paths: [classifier.predict(path) for path in paths], [options.folder])
    return {"seconds": seconds, "before": before, "memory": peak_memory()}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of audio files")
    parser.add_argument("--model", default="best", help="as genre-cls takes it, no .onnx file (default: %(default)s)")
    parser.add_argument("--tracking", default="mlruns", help="tracking store (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of all ways in turn (default: %(default)s)")
    parser.add_argument("--hours", type=float, default=2, help="of the long file, 0 for none (default: %(default)s)")
    parser.add_argument("--long", action="store_true", help=argparse.SUPPRESS)  # in the separate process
    return parser.parse_args()


if __name__ == "__main__":
    main()
