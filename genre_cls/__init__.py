"""genre_cls: which features and which CNN classify music genres best?"""

import os
import sys
from getpass import getuser
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genre_cls.errors import UserError
    from genre_cls.inference.classifier import GenreClassifier
    from genre_cls.inference.onnx_model import OnnxClassifier
    from genre_cls.inference.prediction import Prediction
    from genre_cls.tracks.audio import UnreadableAudio

__all__ = ["GenreClassifier", "OnnxClassifier", "Prediction", "UnreadableAudio", "UserError"]
MODULES = {
    "GenreClassifier": "inference.classifier",
    "OnnxClassifier": "inference.onnx_model",
    "Prediction": "inference.prediction",
    "UnreadableAudio": "tracks.audio",
    "UserError": "errors",
}
__version__ = "0.1.0"

if sys.platform == "win32":
    print("error: genre_cls needs Linux or macOS; on Windows it runs in WSL", file=sys.stderr)
    raise SystemExit(2)

# Libraries that report their use to their makers, from their import on, do not unless the user wants it.
for setting, off in (
    ("GRADIO_ANALYTICS_ENABLED", "False"),
    ("MLFLOW_DISABLE_TELEMETRY", "true"),
    ("ORT_DISABLE_TELEMETRY", "1"),
    ("RAY_USAGE_STATS_ENABLED", "0"),
):
    os.environ.setdefault(setting, off)

try:
    getuser()
except (KeyError, OSError):  # a user id without a name, as in containers, which PyTorch and others fail on
    os.environ["USER"] = f"uid{os.getuid()}"
try:
    Path.home()
except RuntimeError:  # nor a home, without which MLflow does not start
    from tempfile import gettempdir  # more than half of what this file would take to import

    os.environ["HOME"] = gettempdir()


def __getattr__(name: str) -> Any:
    """Import the classifiers, which takes seconds, on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"genre_cls.{MODULES[name]}"), name)
