"""Mel spectrograms and MFCCs of the same files by librosa, torchaudio and genre_cls, decoding included.

Run as `python benchmarks/features.py FOLDER`; docs/benchmarks.md has results. Needs the extra `bench`.
"""

import argparse
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soundfile
import torch
from common import OURS, Paths, Way, compared, in_turn

from genre_cls.tracks.audio import header
from genre_cls.tracks.catalogue import Track
from genre_cls.tracks.feature_cache import FeatureCache
from genre_cls.tracks.features import FeatureSpec
from genre_cls.tracks.listing import audio_files

SPECS = [FeatureSpec(kind="mel"), FeatureSpec(kind="mfcc")]  # librosa's defaults: FFTs of 2048 samples, a hop of 512
MEL, MFCC = SPECS
STFT = {"n_fft": MEL.n_fft, "hop_length": MEL.hop_length, "n_mels": MEL.n_mels}
FLOOR = "decoding alone"


def main() -> None:
    """Time all ways in turn."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        paths = chosen(audio_files(options.folder or generated(Path(folder), options)), options.tracks)
        times = in_turn(available(Path(folder)), paths, options.rounds)
        seconds = sum(header(path).seconds for path in paths)
    print(f"{len(paths)} files, {seconds:.0f} s of audio, {os.cpu_count()} cores, {options.rounds} rounds in turn\n")
    print(compared(times, "s", digits=2))


def librosa(paths: Paths) -> None:
    """Compute both kinds as tutorials do: one after the other, each from the waveform."""
    import librosa

    for path in paths:
        samples, rate = librosa.load(path, sr=MEL.sample_rate)
        librosa.power_to_db(librosa.feature.melspectrogram(y=samples, sr=rate, **STFT), ref=np.max)
        librosa.feature.mfcc(y=samples, sr=rate, n_mfcc=MFCC.n_mfcc, **STFT)


def torchaudio(paths: Paths) -> None:
    """Apply torchaudio's transforms clip by clip on all of torch's threads; soundfile decodes, as torchaudio cannot."""
    from torchaudio import transforms as T

    decibels = T.AmplitudeToDB(top_db=MEL.top_db)
    mel = T.MelSpectrogram(MEL.sample_rate, norm="slaney", mel_scale="slaney", **STFT)
    mfcc = T.MFCC(MEL.sample_rate, MFCC.n_mfcc, melkwargs={"norm": "slaney", "mel_scale": "slaney", **STFT})
    for path in paths:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        waveform = torch.from_numpy(samples).mean(dim=1)
        if rate != MEL.sample_rate:
            waveform = T.Resample(rate, MEL.sample_rate)(waveform)
        decibels(mel(waveform))
        mfcc(waveform)


def genre_cls(paths: Paths, scratch: Path) -> None:
    """Fill a cold cache: digests, one decode and one STFT for both kinds, and writing the cache's files.

    No call deletes its cache: on ext4, files that were deleted seconds ago slow down the making of others.
    """
    tracks = [Track(str(path), path, "") for path in paths]
    both = FeatureCache(Path(tempfile.mkdtemp(dir=scratch))).load(tracks, SPECS)
    if unreadable := both[0].unreadable:
        raise SystemExit(f"{unreadable[0].track.path}: {unreadable[0].reason}")


def decoding(paths: Paths) -> None:
    """Read every file by soundfile on all cores, which no way can do without."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(lambda path: len(soundfile.read(path, dtype="float32")[0]), paths):
            pass


def available(scratch: Path) -> dict[str, Way]:
    """Return the ways whose libraries are installed, and print the name of a missing one; caches go into a folder."""
    ours = partial(genre_cls, scratch=scratch)
    ways: dict[str, Way] = {"torchaudio": torchaudio, OURS: ours, FLOOR: decoding}
    if find_spec("librosa"):
        return {"librosa": librosa, **ways}
    print("left out librosa: not installed (the extra `bench` has it)\n")
    return ways


def chosen(paths: Paths, n: int) -> Paths:
    """Choose n of the files, evenly spread, so that all genres are included; 0 for all of them."""
    return paths[:: max(1, len(paths) // n)][:n] if n else paths


def generated(folder: Path, options: argparse.Namespace) -> Path:
    """Write noise to files, for a machine without music: FFTs take as long, but WAV decodes faster than mp3."""
    random = np.random.default_rng(0)
    for number in range(options.tracks or 20):
        noise = 0.1 * random.standard_normal(int(options.seconds * MEL.sample_rate), dtype=np.float32)
        soundfile.write(folder / f"{number:05}.wav", noise, MEL.sample_rate)
    return folder


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="of audio files (default: 20 generated ones)")
    parser.add_argument("--tracks", type=int, default=0, help="how many of the files, 0 for all (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of all ways in turn (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=30, help="length of a generated clip (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
