"""Synthesise the demo set."""

import inspect
from collections.abc import Mapping
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import soundfile
from joblib import cpu_count

from genre_cls.files import expanduser, locked, write_atomically
from genre_cls.processes import workers
from genre_cls.progress import progress_bar
from genre_cls.tracks import synthesiser
from genre_cls.tracks.catalogue import Catalogue, Track

SYNTHESISER = inspect.getsource(synthesiser)  # as it was when this process began


def demo(
    *, cache_dir: str, tracks_per_genre: int, seconds: float, sample_rate: int, crossover: float, seed: int
) -> Catalogue:
    """Synthesise the demo set on first use, once per machine, and list it.

    Args:
        cache_dir: where the audio is kept; a folder is made there for each set of arguments.
        tracks_per_genre: tracks of each of the ten genres.
        seconds: length of a track, s.
        sample_rate: of the files, Hz.
        crossover: probability that an ingredient comes from a neighbouring genre, 0 to 1.
        seed: of all random choices.
    """
    plan = synthesiser.plan(tracks_per_genre=tracks_per_genre, seed=seed)
    recipe = {"seconds": float(seconds), "sample_rate": sample_rate, "crossover": float(crossover)}
    # A change to the synthesiser makes a new set, never a mixture of old and new.
    key = blake2b((SYNTHESISER + repr(recipe)).encode(), digest_size=6).hexdigest()
    base = expanduser(cache_dir) / "demo" / key
    tracks = [Track(t.id, base / f"{t.id}.{t.seed}.wav", t.genre, t.artist) for t in plan]
    base.mkdir(parents=True, exist_ok=True)
    if not all(track.path.exists() for track in tracks):  # what is complete may be read-only
        with locked(base / ".lock", "demo set"):
            todo = [(d, t.path, recipe) for d, t in zip(plan, tracks, strict=True) if not t.path.exists()]
            calls = [workers.call(cpu_count(), _synthesise_one, *job) for job in todo]
            for _ in progress_bar(workers.results(calls), "Synthesising the demo set", total=len(calls)):
                pass
    notes = ("The demo set is synthetic: generated sounds in the manner of ten genres, not recordings.",)
    return Catalogue("demo", tuple(tracks), synthetic=True, notes=notes)


def _synthesise_one(track: synthesiser.DemoTrack, path: Path, recipe: Mapping[str, Any]) -> None:
    waveform = synthesiser.synthesise(track, **recipe)
    encoded = BytesIO()  # since libsndfile does not report a full disk
    soundfile.write(encoded, waveform, recipe["sample_rate"], subtype="PCM_16", format="WAV")
    write_atomically(path, encoded.getbuffer())  # durable, as a file that exists is never checked again
