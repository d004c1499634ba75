"""Registration of trained models in MLflow's registry, with a signature and an input example."""

import io
import logging
import shlex
import tempfile
import warnings
from contextlib import redirect_stderr
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import soundfile
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

import genre_cls
from genre_cls.errors import UserError
from genre_cls.inference.classifier import GenreClassifier
from genre_cls.tracking.connection import mlflow_command, what_failed
from genre_cls.tracking.stored_runs import STORE_FAILED
from genre_cls.tracking.tracker import Tracker

EXPERIMENT = "genre_cls models"
CODE = Path(__file__).with_name("served.py")  # a script that MLflow runs, not to be imported
INPUT, MODEL = "audio", "model"  # as in that script
FAILED = (*STORE_FAILED, "BAD_REQUEST")  # the latter of databases, for what SQLAlchemy raises besides


def register(classifier: GenreClassifier, name: str, tracking: str) -> tuple[str, str]:
    """Register a classifier as a new version of a model.

    Args:
        classifier: to register.
        name: of the model, which is created if it does not exist.
        tracking: the tracking store: its folder, or a server's address.

    Returns:
        Address of the version, `models:/NAME/VERSION`, and the command that serves it on this machine.

    Raises:
        UserError: the store refuses it.
    """
    tracker = Tracker.at(tracking)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    mlflow.set_tracking_uri(tracker.uri)
    try:
        address = _logged(classifier, name, tracker)
    except MlflowException as error:
        failed = error.error_code in FAILED
        raise UserError(f"register {name}: {what_failed(tracker.uri, error) if failed else error}") from error
    serve = f"models serve -m {shlex.quote(address)} --env-manager local --host 127.0.0.1"
    return address, mlflow_command(tracker.uri, serve)


def _logged(classifier: GenreClassifier, name: str, tracker: Tracker) -> str:
    experiment = tracker.experiment(EXPERIMENT, restore=True)
    # MLflow prints and warns about what does not concern the user; failures are raised as exceptions.
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = Path(folder) / "genres.safetensors"
        classifier.save(file)
        with mlflow.start_run(experiment_id=experiment, run_name=name):
            logged = mlflow.pyfunc.log_model(
                name="model", python_model=str(CODE), artifacts={MODEL: str(file)}, registered_model_name=name,
                signature=_signature(classifier.genres), input_example=_example(),
                pip_requirements=[f"genre_cls=={genre_cls.__version__}"],
            )  # fmt: skip
    return f"models:/{name}/{logged.registered_model_version}"


def _signature(genres: tuple[str, ...]) -> ModelSignature:
    """From a file's bytes (base64 in JSON) to its genre and all probabilities."""
    texts = [ColSpec("string", name) for name in ("genre", "note")]
    shares = [ColSpec("double", f"p({genre})") for genre in genres]
    return ModelSignature(Schema([ColSpec("binary", INPUT)]), Schema([*texts, *shares]))


def _example() -> pd.DataFrame:
    """A tone of one second as a WAV file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.3 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000), 8000, format="WAV")
    return pd.DataFrame({INPUT: [buffer.getvalue()]})
