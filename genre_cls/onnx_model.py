"""A model as an ONNX file, put to use without PyTorch: it starts several times as fast."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from genre_cls.calibration import Floats, checked_temperature
from genre_cls.errors import UserError, in_short, system_reason
from genre_cls.extras import needs
from genre_cls.files import expanduser
from genre_cls.prediction import Classifier

with needs("onnx"):
    import onnxruntime

KEY = "genre_cls"  # of the JSON among a file's metadata
INPUT, OUTPUTS = "waveform", ("probabilities", "windows", "starts", "ends")


class OnnxClassifier(Classifier):
    """Trained models that vote on the genre of an audio file, as `GenreClassifier` does in float32.

    Args:
        graph: as `session` gives it.
        description: what the file's metadata say.

    Raises:
        KeyError, TypeError, ValueError: the metadata are not those of a model.
    """

    def __init__(self, graph: onnxruntime.InferenceSession, description: Mapping[str, Any]) -> None:
        sample_rate, longest = int(description["features"]["sample_rate"]), float(description["segment"])
        if not 1000 <= sample_rate <= 192000 or not 1 <= longest < np.inf:
            raise ValueError("no such rate or length of clips")
        genres, dataset = tuple(map(str, description["genres"])), str(description["origin"]["dataset"])
        temperature = checked_temperature(description.get("temperature", 1.0))
        super().__init__(genres, dataset, sample_rate, longest, temperature)
        self._graph = graph

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Load an exported model.

        Args:
            path: of the .onnx file.

        Raises:
            UserError: no such file, or none that can be used.
        """
        try:
            graph = session(expanduser(path).read_bytes())
            return cls(graph, json.loads(graph.get_modelmeta().custom_metadata_map[KEY]))
        except OSError as error:
            raise UserError(f"{path}: {system_reason(error)}") from error
        except Exception as error:  # whatever parsers say of nonsense
            raise UserError(f"{path}: holds no ONNX model of genre_cls: {in_short(error)}") from error

    def _predict_clip(self, waveform: NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
        try:
            _, *found = self._graph.run(list(OUTPUTS), {INPUT: waveform})
            windows, starts, ends = (np.asarray(each, dtype=float) for each in found)
        except Exception as error:  # onnxruntime's have no common ancestor
            raise UserError(f"the model cannot judge this file: {in_short(error)}") from error
        votes = windows.shape[1:] == (len(self.genres),) and windows.size
        if not (votes and starts.shape == ends.shape == windows.shape[:1]):
            raise UserError("the model gives no vote on each window of this file")
        right = np.allclose(windows.sum(axis=1), 1, atol=1e-3) and (windows >= 0).all()
        if not (right and np.isfinite(starts + ends).all()):
            raise UserError("the model gives no probabilities for this file")
        return starts, ends, windows


def session(content: bytes) -> onnxruntime.InferenceSession:
    """Make a graph ready to run on the CPU.

    Args:
        content: of an ONNX file.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what is wrong comes as an exception, in one line
    # Or a graph may take as its weights what lies in any file below the folder that one stands in.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
