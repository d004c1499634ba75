"""Why a clip is said to be of a genre: integrated gradients over its log-mel spectrogram."""

from collections.abc import Sequence

import torch
from torch import Tensor

from genre_cls.features import FeatureSpec, cosines
from genre_cls.modelfile import Network, Usage
from genre_cls.prediction import Clip, Explanation
from genre_cls.views import medians, mfccs
from genre_cls.windows import cover_starts, is_levelled, is_of_mfccs, is_of_statistics, sees_modulations, treatment

FIRST_STEP = 5  # decades that lie between the first step and the end of the path
OVERLAP = 0.5  # at least, of windows that fade at both ends, as those do of which modulations are seen
STEPS = 32  # of the integral; four times as many change the evidence by about a per cent


def explained(networks: Sequence[Network], usage: Usage, clip: Clip, genre: int) -> Explanation:
    """Share the logit of a genre out among time and frequency, as the mean over networks and windows.

    MFCCs are linear in the log-mel spectrogram, so that the gradients go back to mel bands through the transposed DCT.

    Args:
        networks: that vote.
        usage: how they are to be used.
        clip: to explain.
        genre: place of the genre.

    Source: Sundararajan, Taly and Yan, Axiomatic attribution for deep networks, ICML 2017.
    """
    n_frames, n_own = usage.spec.n_frames(usage.window), clip.mel.shape[1]
    frames = torch.arange(max(n_own, n_frames)) % n_own  # of a clip that is repeated until it fills a window
    mel = torch.from_numpy(clip.mel)[:, frames]  # (n_mels, n_repeated)
    basis, evidence, difference = _basis(usage.spec), torch.zeros_like(mel), 0.0
    for network in networks:
        seen = mel - mel.mean(dim=1, keepdim=True) if is_levelled(network.view) else mel
        starts = cover_starts(mel.shape[1], n_frames, overlap(network.view, usage.overlap))
        weight = 1 / (len(networks) * len(starts))
        for start in starts:
            shares, gained = _integrated(network, basis, seen[:, start : start + n_frames], genre)
            evidence[:, start : start + n_frames] += weight * shares
            difference += weight * gained
    # What a repeated frame adds is due to the frame that it repeats.
    own = torch.zeros(clip.mel.shape).index_add_(1, frames, evidence)
    return Explanation(usage.genres[genre], clip, own.numpy(), difference, _origin(networks))


def _integrated(network: Network, basis: Tensor, window: Tensor, genre: int) -> tuple[Tensor, float]:
    """What each value of a window `(n_mels, n_frames)` adds to the logit, and what all of them do.

    The path begins at the training tracks' mean, of which a network is shown zeros; for one that sees modulations
    alone, at the window's own mean, in which nothing moves; for statistics at the mean of the training tracks' medians,
    in which nothing moves either.
    """
    still = window.mean(dim=1, keepdim=True)  # (n_mels, 1)
    # The rows of the basis are orthonormal, and so are those of what makes MFCCs of mel bands.
    shown = mfccs(basis) if is_of_mfccs(network.view) else basis  # (n_bins that the network sees, n_mels)
    origin = still if treatment(network.view) == "modulation" else shown.T @ _middle(network, len(shown))
    ends = _ends(network.view)[:, None, None]
    middles, widths = (ends[1:] + ends[:-1]) / 2, ends[1:] - ends[:-1]  # (n_steps, 1, 1)
    path = (origin + middles * (window - origin)).requires_grad_()  # (n_steps, n_mels, n_frames)
    (gradients,) = torch.autograd.grad(_logit(network, basis, path, genre).sum(), path)
    with torch.no_grad():
        end, start = _logit(network, basis, torch.stack([window, origin.expand_as(window)]), genre)
    return (window - origin) * (gradients * widths).sum(dim=0), float(end - start)


def _middle(network: Network, n_bins: int) -> Tensor:
    """What a network's training tracks have in the middle of each of its bins `(n_bins, 1)`."""
    return medians(network.mean, n_bins) if is_of_statistics(network.view) else network.mean


def _origin(networks: Sequence[Network]) -> str:
    """Where the paths begin, in words."""
    mean = ("the training tracks' mean", "CNNs")
    origins = {
        "modulation": ("a clip in which nothing moves", "networks that see modulations alone"),
        "statistics": ("a still clip of the training tracks' medians", "kernel machines"),
    }
    (first, _), *others = dict.fromkeys(origins.get(treatment(network.view), mean) for network in networks)
    return first + (f" ({'; '.join(f'{origin}, for {whose}' for origin, whose in others)})" if others else "")


def overlap(view: str, least: float) -> float:
    """Share of a window by which windows overlap, so that no moment counts for more than another.

    Args:
        view: how a network sees a window.
        least: by which it is judged.
    """
    return max(least, OVERLAP) if sees_modulations(view) else least


def _ends(view: str) -> Tensor:
    """Where the steps of the path end, 0 to 1.

    Modulation energies enter as logarithms, steepest near the start of the path, hence log-spaced steps.
    """
    if not sees_modulations(view):
        return torch.linspace(0, 1, STEPS + 1)
    return torch.cat([torch.zeros(1), torch.logspace(-FIRST_STEP, 0, 4 * STEPS)])


def _logit(network: Network, basis: Tensor, mels: Tensor, genre: int) -> Tensor:
    """The genre's logit less the mean of all, since softmax takes logits for equal that differ by a constant."""
    logits = network((basis @ mels)[:, None])
    return logits[:, genre] - logits.mean(dim=1)


def _basis(spec: FeatureSpec) -> Tensor:
    """From mel bands to features `(n_bins, n_mels)`."""
    return torch.eye(spec.n_mels) if spec.kind == "mel" else cosines(spec.n_mfcc, spec.n_mels)
