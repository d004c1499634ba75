"""Script that MLflow runs to serve a registered model: audio files in, genres out.

MLflow copies this file and runs it when the model is loaded, so that nothing has to be pickled. Copies outlive modules,
so it imports only what the package exports.
"""

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from genre_cls import GenreClassifier, UnreadableAudio, UserError

INPUT, MODEL = "audio", "model"  # names of the input column and of the artifact


class ServedGenres(PythonModel):
    """A classifier with MLflow's interface for Python models."""

    def load_context(self, context: Any) -> None:
        """Load the model file that was registered."""
        self._classifier = GenreClassifier.load(context.artifacts[MODEL])

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Classify audio files.

        Args:
            context: unused.
            model_input: column `audio`, the bytes of a file in any format that libsndfile reads.
            params: unused.

        Returns:
            One row per file: `genre`, the most probable one, `note`, why to doubt it, mostly empty, and `p(<genre>)`
            for each genre.

        Raises:
            MlflowException: a file cannot be classified; the server answers with code 400 and the reason.
        """
        return pd.DataFrame([self._predict_one(index, audio) for index, audio in enumerate(model_input[INPUT])])

    def _predict_one(self, index: int, audio: bytes) -> dict[str, str | float]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "audio"
            path.write_bytes(audio)
            try:
                prediction = self._classifier.predict(path)
            except (UnreadableAudio, UserError) as error:
                raise MlflowException.invalid_parameter_value(f"audio file {index}: {error}") from error
        pairs = zip(prediction.genres, prediction.probabilities.tolist(), strict=True)
        answer = {"genre": prediction.genre, "note": prediction.note}
        return answer | {f"p({genre})": probability for genre, probability in pairs}


set_model(ServedGenres())
