"""Inference with an ONNX file, without PyTorch, which starts several times as fast."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from joblib import cpu_count
from numpy.typing import NDArray

from genre_cls.errors import UserError, in_short, system_reason
from genre_cls.evaluation.calibration import Floats, checked_temperature
from genre_cls.extras import needs
from genre_cls.files import expanduser
from genre_cls.inference.prediction import Classifier

with needs("onnx"):
    import onnxruntime

KEY = "genre_cls"  # of the JSON in a file's metadata
INPUT, OUTPUTS = "waveform", ("probabilities", "windows", "starts", "ends")


class OnnxClassifier(Classifier):
    """An exported ensemble that classifies audio files, as `GenreClassifier` does in float32.

    Args:
        graph: from `session`.
        description: from the file's metadata, as `onnx_export` writes them.

    Raises:
        KeyError, TypeError, ValueError: the metadata are not those of a model.
    """

    def __init__(self, graph: onnxruntime.InferenceSession, description: Mapping[str, Any]) -> None:
        features, longest = description["features"], float(description["longest"])
        sample_rate, f_max = int(features["sample_rate"]), float(features["f_max"])
        if not 1000 <= sample_rate <= 192000 or not 1 <= longest < np.inf:
            raise ValueError(f"rate {sample_rate} must be 1000 to 192000 Hz, length of clips {longest:g} at least 1 s")
        genres, dataset = tuple(map(str, description["genres"])), str(description["origin"]["dataset"])
        if len(set(genres)) < max(2, len(genres)):
            raise ValueError("genres must be two names or more that all differ")
        temperature = checked_temperature(description["temperature"])
        super().__init__(
            genres, dataset, sample_rate=sample_rate, longest=longest, temperature=temperature, f_max=f_max
        )
        self._graph = graph

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Load an exported model.

        Args:
            path: of the .onnx file.

        Raises:
            UserError: there is no such file, or it cannot be used.
        """
        try:
            graph = session(expanduser(path).read_bytes())
            return cls(graph, json.loads(graph.get_modelmeta().custom_metadata_map[KEY]))
        except OSError as error:
            raise UserError(f"{path}: {system_reason(error)}") from error
        except Exception as error:  # whatever parsers raise for nonsense
            raise UserError(f"{path}: is not an ONNX model of genre_cls: {in_short(error)}") from error

    def _predict_clip(self, waveform: NDArray[np.float32]) -> tuple[Floats, Floats, Floats]:
        try:
            _, *outputs = self._graph.run(list(OUTPUTS), {INPUT: waveform})
            windows, starts, ends = (np.asarray(output, dtype=float) for output in outputs)
        except Exception as error:  # onnxruntime's have no common ancestor
            raise UserError(f"the model cannot classify this file: {in_short(error)}") from error
        has_votes = windows.shape[1:] == (len(self.genres),) and windows.size
        if not (has_votes and starts.shape == ends.shape == windows.shape[:1]):
            raise UserError("the model gives no probabilities per window for this file")
        has_probabilities = np.allclose(windows.sum(axis=1), 1, atol=1e-3) and (windows >= 0).all()
        if not (has_probabilities and np.isfinite(starts + ends).all()):
            raise UserError("the model gives no probabilities for this file")
        return starts, ends, windows


def session(content: bytes) -> onnxruntime.InferenceSession:
    """Prepare a graph to run on the CPU.

    Args:
        content: of an ONNX file.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # fatal only: errors are raised as exceptions, too
    if (share := cpu_count()) < (os.cpu_count() or 1):  # of the machine, in a container: onnxruntime would take all
        options.intra_op_num_threads = share
    # Otherwise a graph could read any file below the current directory as its weights.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
