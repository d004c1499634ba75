"""Export of trained models, with their feature extraction, as one ONNX graph from waveform to genre probabilities.

The graph takes a whole clip, not its windows, since level and floor of the features are the clip's own.
"""

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, pad

from genre_cls.errors import UserError, in_short
from genre_cls.extras import needs
from genre_cls.inference.onnx_model import INPUT, KEY, OUTPUTS, session
from genre_cls.models.modelfile import Usage
from genre_cls.models.network import Network
from genre_cls.tracks.audio import SHORTEST
from genre_cls.tracks.features import FeatureSpec, decibels, filterbank, finished
from genre_cls.tracks.windows import longest_step, voting

with needs("onnx"):
    import onnx

OPSET = 17  # the first with STFT
TOLERANCE = 1e-3  # by which outputs may differ from PyTorch's: now and then the last bit of a float16 feature does

# PyTorch 2.11 prints the whole graph of an export that fails, whatever its settings say.
torch._C._jit_onnx_log = lambda *_: None


def exported(networks: Sequence[Network], usage: Usage, temperature: float, description: Mapping[str, Any]) -> bytes:
    """Export an ensemble as the content of an ONNX file, checked against PyTorch.

    Args:
        networks: the members of the ensemble, as `modelfile.read` returns them.
        usage: how they are used.
        temperature: of the ensemble's predictions for a clip.
        description: plain data for the file's metadata: `genres`, `features`, `longest`, `temperature`, `origin`, …

    Returns:
        A graph that computes in float32. Its input is `waveform`, float32 `(n_samples,)`, a whole clip: mono at the
        metadata's `sample_rate`, full scale at +-1, 0.5 s to `longest_clip` s. Its outputs are `probabilities`
        `(n_genres,)`; `windows` `(n_windows, n_genres)`, the ensemble's vote on each window that is not silent, unless
        all are; and their `starts` and `ends`, float64 `(n_windows,)`, s.

    Raises:
        UserError: the export fails, or the graph does not compute what PyTorch does.
    """
    model = TraceableClassifier(networks, usage, temperature)
    graph = _traced(model, usage.spec.sample_rate)
    metadata = {
        KEY: description, "genres": usage.genres, "sample_rate": usage.spec.sample_rate,
        "longest_clip": usage.longest, "origin": description["origin"],
    }  # fmt: skip
    onnx.helper.set_model_props(graph, {key: json.dumps(value) for key, value in metadata.items()})
    content = graph.SerializeToString()
    _compare(content, model, usage)
    return content


class TraceableClassifier(nn.Module):
    """The computations of `GenreClassifier` for a clip, in operators that ONNX has.

    Args:
        networks: the members of the ensemble.
        usage: how they are used.
        temperature: of the ensemble's predictions for a clip.
    """

    basis: Tensor

    def __init__(self, networks: Sequence[Network], usage: Usage, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.networks = nn.ModuleList(networks)
        self.spec, self.overlap = usage.spec, usage.overlap
        self.n_frames = usage.spec.n_frames(usage.window)
        self.register_buffer("basis", _basis(usage.spec))

    def forward(self, waveform: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the outputs of the graph for a clip `(n_samples,)`, which `exported` describes."""
        clip = self._features(waveform)  # (n_bins, n_clip)
        first = self._cover(torch.as_tensor(clip.shape[1]))  # (n_windows,)
        # A clip that is shorter than a window is repeated until it fills one.
        frames = (first[:, None] + torch.arange(self.n_frames)) % clip.shape[1]  # (n_windows, n_frames)
        cover = clip[:, frames].permute(1, 0, 2)[:, None]  # (n_windows, 1, n_bins, n_frames)
        votes = voting(cover[:, 0], self.spec)
        cover, first = cover[votes], first[votes]
        logits = torch.stack([network(cover) for network in self.networks])
        windows = logits.mean(dim=0).softmax(dim=1)  # (n_windows, n_genres)
        starts = first.double() * self.spec.seconds_per_frame
        ends = starts + self.n_frames * self.spec.seconds_per_frame
        length = torch.as_tensor(waveform.shape[0]).double()[None] / self.spec.sample_rate
        probabilities = (windows.mean(dim=0).log() / self.temperature).softmax(dim=0)
        return probabilities, windows, starts, torch.minimum(ends, length)

    def _features(self, waveform: Tensor) -> Tensor:
        """Compute the features `(n_bins, n_clip)` as `features.extract` does, with its rounding to float16."""
        log_mel = decibels(filterbank(self.spec) @ self._power(waveform), self.spec)
        return finished(log_mel, self.spec).float()

    def _power(self, waveform: Tensor) -> Tensor:
        """Power spectrogram `(n_fft // 2 + 1, n_clip)`."""
        n_fft, hop = self.spec.n_fft, self.spec.hop_length
        padded = pad(waveform, (n_fft // 2, n_fft // 2))
        if _is_power_of_two(n_fft):  # in float64: in float32 onnxruntime is imprecise where part of a frame is silent
            pairs = torch.stft(padded.double()[None], n_fft, hop, window=self.basis, center=False, return_complex=False)
            return pairs.square().sum(dim=-1)[0].float()
        real, imaginary = conv1d(padded[None, None], self.basis, stride=hop)[0].square().chunk(2)
        return real + imaginary

    def _cover(self, n_clip: Tensor) -> Tensor:
        """First frames of the windows `(n_windows,)`, as from `windows.cover_starts` of the repeated clip."""
        step = longest_step(self.n_frames, self.overlap)
        last = (n_clip - self.n_frames).clamp(min=0)  # first frame of the last window
        steps = torch.div(last + (step - 1), step, rounding_mode="floor")
        index = torch.arange(steps + 1)  # type: ignore[call-overload]  # of a tensor, on which the graph then depends
        # Vectors, since the export divides 0-dimensional doubles in float32, which may be off by a frame.
        spread = index.double() * (last.double()[None] / steps.clamp(min=1).double()[None])
        return torch.where(index == steps, last, spread.long())


def _basis(spec: FeatureSpec) -> Tensor:
    """The Hann window `(n_fft,)`, float64; where onnxruntime's STFT is imprecise, cosines and sines as filters.

    The filters are windowed, float32, `(2 * (n_fft // 2 + 1), 1, n_fft)`, one pair for each frequency.
    """
    window = torch.hann_window(spec.n_fft, dtype=torch.float64)
    if _is_power_of_two(spec.n_fft):
        return window
    phases = torch.arange(spec.n_fft // 2 + 1)[:, None] * torch.arange(spec.n_fft) % spec.n_fft
    angles = phases.double() * (2 * np.pi / spec.n_fft)  # (n_fft // 2 + 1, n_fft)
    return (torch.cat([angles.cos(), angles.sin()]) * window).float()[:, None]


def _is_power_of_two(n: int) -> bool:
    return n & (n - 1) == 0


def _traced(model: TraceableClassifier, sample_rate: int) -> Any:
    """Trace the graph, for clips of any length."""
    buffer = io.BytesIO()
    axes = {name: {0: "n_windows"} for name in OUTPUTS[1:]} | {INPUT: {0: "n_samples"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, but needs no package other than onnx
        try:
            torch.onnx.export(
                model.eval(), (_noise(2.0, sample_rate),), buffer,  # type: ignore[arg-type]
                opset_version=OPSET, dynamo=False,
                input_names=[INPUT], output_names=list(OUTPUTS), dynamic_axes=axes,
            )  # fmt: skip
        except Exception as error:  # a user's own model may fail in any way
            raise UserError(f"this model cannot be written as ONNX: {in_short(error)}") from error
    return onnx.load_from_string(buffer.getvalue())


def _compare(content: bytes, model: TraceableClassifier, usage: Usage) -> None:
    """Check that the graph agrees with PyTorch, on a clip shorter than a window and on one of several windows."""
    graph = session(content)
    for seconds in (0.6 * usage.window, 3.3 * usage.window):
        waveform = _noise(max(SHORTEST, seconds), usage.spec.sample_rate)
        with torch.inference_mode():
            expected = [value.numpy() for value in model(waveform)]
        outputs = graph.run(list(OUTPUTS), {INPUT: waveform.numpy()})
        for name, output, reference in zip(OUTPUTS, outputs, expected, strict=True):
            if output.shape != reference.shape or not np.abs(output - reference).max() <= TOLERANCE:
                raise UserError(f"this model cannot be written as ONNX: its {name} differ from PyTorch's")


def _noise(seconds: float, sample_rate: int) -> Tensor:
    return 0.1 * torch.randn(round(seconds * sample_rate), generator=torch.Generator().manual_seed(0))
