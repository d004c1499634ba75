"""The command that classifies files: `python -m genre_cls.predict song.mp3 folder/`.

Heavy modules are imported only when they are needed, so that `--help` and typos are answered at once.
"""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genre_cls import __version__
from genre_cls.configuration.arguments import OneLineParser, nonempty, whole_number
from genre_cls.configuration.commands import as_command, find_modules_here
from genre_cls.configuration.settings import at_least
from genre_cls.errors import UserError, in_one_line, system_reason
from genre_cls.files import expanduser, followed, write_atomically
from genre_cls.inference.output import FORMATS, Predictions
from genre_cls.inference.prediction import is_onnx
from genre_cls.progress import progress_bar, waiting
from genre_cls.tracks.audio import UnreadableAudio
from genre_cls.tracks.listing import EXTENSIONS, audio_files, conversion, other_files

if TYPE_CHECKING:
    from genre_cls.inference.prediction import Classifier

NO_COMMANDS = {  # words that may be taken for one, and what does what they say
    "predict": "genre-cls FILE",
    "export": "genre-cls --export FILE",
    "explain": "genre-cls FILE --explain PICTURE",
    "register": "genre-cls --register NAME",
    "train": "python -m genre_cls.train",
    "report": "python -m genre_cls.report",
}
READABLE = ", ".join(EXTENSIONS)


def main() -> None:
    """Classify the files; the exit code is 1 if one cannot be classified, 2 if the command is wrong."""
    with as_command():
        arguments = _arguments()
        if not (arguments.inputs or arguments.export or arguments.register):
            raise UserError("nothing to do; name audio files or folders of them, or --export FILE (see --help)")
        for path in arguments.inputs:
            if str(path) in NO_COMMANDS and not path.exists():
                raise UserError(f"{path}: no such file, and no command; did you mean {NO_COMMANDS[str(path)]}?")
        raise SystemExit(_run(arguments))


def _arguments() -> Namespace:
    """Read the command's arguments; files may follow options that follow files, which argparse would not recognise."""
    parser, words = _parser(), sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)  # whatever follows is a file
    arguments, rest = parser.parse_known_args(words[:end])
    if unknown := [word for word in rest if word.startswith("-")]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    arguments.inputs += parser.parse_args(["--", *rest, *words[end + 1 :]]).inputs
    return arguments


def _run(arguments: Namespace) -> int:
    failed: list[Path] = []
    files = list(dict.fromkeys(file for path in arguments.inputs for file in _inputs(path, failed)))
    _check(arguments, files)
    files = [file for file in files if _exists(file, failed)]
    if arguments.inputs and not (files or arguments.export or arguments.register):
        FORMATS[arguments.format]((), (), arguments.top)
        return 1  # without loading a model, which takes seconds
    with waiting("loading the model"):
        classifier = _classifier(arguments)
    _export_and_register(classifier, arguments)
    if classifier.dataset == "demo":
        _log("note: this model was trained on the synthetic demo set only, never on real music")
    predictions = _predictions(classifier, files, failed)
    if arguments.explain:  # of the one file, unless it cannot be classified
        predictions = list(predictions)
    FORMATS[arguments.format](predictions, classifier.genres, arguments.top)
    if arguments.explain:
        for file, prediction in predictions:
            _explain(classifier, file, prediction.genre, arguments.explain)
    return 1 if failed else 0


def _explain(classifier: "Classifier", file: Path, genre: str, picture: Path) -> None:
    """Plot the evidence for a file's predicted genre."""
    from genre_cls.evaluation import figures
    from genre_cls.inference import clip_plots
    from genre_cls.inference.classifier import GenreClassifier

    assert isinstance(classifier, GenreClassifier)  # ensured by _check
    try:
        clip = classifier.first_clip(file)
    except UnreadableAudio as error:  # though the rest could be classified
        raise UserError(f"--explain: the beginning of {file} {error}, so there is nothing to draw") from error
    _log(f"explaining {clip.part} of {file}, which takes some seconds for each of {classifier.n_networks} models")
    explanation = classifier.explain_clip(clip, genre)
    write_atomically(picture, figures.png(clip_plots.explanation(explanation)))
    _log(f"explained: {picture}")


def _check(arguments: Namespace, files: Sequence[Path]) -> None:
    """Refuse incompatible arguments before any work."""
    actions = {"exported again": arguments.export, "explained": arguments.explain, "registered": arguments.register}
    if is_onnx(arguments.model) and (requested := [action for action, argument in actions.items() if argument]):
        raise UserError(
            f"model {arguments.model}: an .onnx file cannot be {requested[0]}; name the run or file it comes from"
        )
    if is_onnx(arguments.model) and arguments.experiment:
        raise UserError(f"experiment {arguments.experiment}: chooses a model by itself; leave out {arguments.model}")
    _check_file("--export", arguments.export, ".safetensors", ".onnx")  # not a song
    if set(arguments.register or "") & set("/:"):
        raise UserError(f"--register {arguments.register}: MLflow takes no slash or colon in a model's name")
    if arguments.register and arguments.trust:
        raise UserError("--register: only models of genre_cls.models can be registered (not --trust)")
    if arguments.top and arguments.format == "csv":
        raise UserError("--top: --format csv always has all genres, a column each")
    if arguments.explain and len(files) != 1:
        raise UserError(f"--explain draws one audio file, not {len(files)}; name one")
    _check_file("--explain", arguments.explain, ".png")


def _check_file(option: str, path: Path | None, *endings: str) -> None:
    """Refuse a file that an option is to write, if there is one, but not with such an ending or not at its place."""
    if not path:
        return
    if path.suffix.lower() not in endings:
        raise UserError(f"{option} {path}: must end in {' or '.join(endings)}")
    if not (folder := followed(path).parent).is_dir():
        raise UserError(f"{option} {path}: no such folder")
    if path.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"{option} {path}: cannot be written; name another file")


def _classifier(arguments: Namespace) -> "Classifier":
    """Load the model, and say which one is the best."""
    if is_onnx(arguments.model):
        from genre_cls.inference.onnx_model import OnnxClassifier  # loads without PyTorch, so at once

        return OnnxClassifier.load(arguments.model)
    from genre_cls.inference.classifier import BEST, GenreClassifier

    if arguments.trust:
        find_modules_here()
    classifier = GenreClassifier.load(
        arguments.model, tracking=arguments.tracking, experiment=arguments.experiment, trust=arguments.trust
    )
    if arguments.model == BEST and classifier.configuration:  # another one may be best tomorrow
        _log(f"best: {classifier.configuration}, of {classifier.dataset}")
    return classifier


def _export_and_register(classifier: "Classifier", arguments: Namespace) -> None:
    """Export and register the model, if requested."""
    if not (arguments.export or arguments.register):
        return
    from genre_cls.inference.classifier import GenreClassifier

    assert isinstance(classifier, GenreClassifier)  # ensured by _check
    if arguments.export:
        classifier.save(arguments.export)
        _log(f"exported: {arguments.export}")
    if arguments.register:
        from genre_cls.inference.registry import register

        address, command = register(classifier, arguments.register, arguments.tracking)
        _log(f"registered: {address}; serve it: {command}")


def _predictions(classifier: "Classifier", files: Sequence[Path], failed: list[Path]) -> Predictions:
    """Classify the files one by one; log why others cannot be classified, and add them to `failed`."""
    in_turn = progress_bar(files, "Classifying", total=len(files)) if len(files) > 1 else files
    for file in in_turn:
        try:
            prediction = classifier.predict(file)
        except (UnreadableAudio, UserError) as error:
            reason = f"contains no audio files ({READABLE})" if file.is_dir() else f"{error}{conversion(file)}"
            _fail(failed, file, reason)
            continue
        if prediction.note:
            _log(f"note: {file}: {prediction.note}")
        yield file, prediction


def _inputs(path: Path, failed: list[Path]) -> list[Path]:
    """Return the audio files below a folder, or the path itself, be it audio or not.

    A folder without audio is returned, too, to be refused like any other path that is no audio file. Folders that
    cannot be listed are logged and added to `failed`.
    """
    if others := other_files(path):
        number = "1 file" if len(others) == 1 else f"{len(others)} files"
        _log(f"{path}: {number} skipped, such as {others[0].name}; readable formats: {READABLE}")
    files = audio_files(path, lambda error: _fail(failed, Path(error.filename), system_reason(error)))
    return files or ([] if path in failed else [path])


def _fail(failed: list[Path], path: Path, reason: str) -> None:
    failed.append(path)
    _log(f"{path}: {reason}")


def _exists(file: Path, failed: list[Path]) -> bool:
    """Whether a file exists; else, log why it does not, and add it to `failed`."""
    try:
        file.stat()
    except OSError as error:
        _fail(failed, file, system_reason(error))
        return False
    return True


def _log(text: str) -> None:
    print(in_one_line(text), file=sys.stderr)


def _parser() -> ArgumentParser:
    parser = OneLineParser(
        prog="genre-cls",
        description="Classifies your own music by genre, with models trained by genre_cls.train.",
        epilog="Exit code: 0, 1 if a file cannot be classified (the others are), 2 if the command is wrong. A page for "
        "the same: genre-cls app.",
    )
    take = parser.add_argument
    take("inputs", nargs="*", type=_path, metavar="FILE|FOLDER", help=f"audio files ({READABLE}) or folders")
    parser.add_model(
        "best (default: the most accurate configuration of the newest comparison, an ensemble of all its folds), an "
        "MLflow run's id, a .safetensors file, a folder of them, an .onnx file"
    )
    number = whole_number(at_least(1))
    take("--top", type=number, metavar="N", help="genres shown for each file (default: 3 in a table, all in JSON)")
    take("--format", choices=FORMATS, default="table", help="json and csv add the vote on each window")
    take("--export", type=expanduser, metavar="FILE", help="write the model into one self-contained file: "
         ".safetensors, or .onnx, which runs without PyTorch (extra onnx)")  # fmt: skip
    evidence = "plot the evidence for the predicted genre (one audio file)"
    take("--explain", type=expanduser, metavar="FILE.png", help=evidence)
    version = "register the model as a version of NAME in MLflow, to be served"
    take("--register", type=nonempty, metavar="NAME", help=version)
    take("--version", action="version", version=f"genre_cls {__version__}", help="print the version and end")
    return parser


def _path(text: str) -> Path:
    return expanduser(nonempty(text))  # an empty one would be the current folder


if __name__ == "__main__":
    main()
