"""Explanations of predictions: integrated gradients over a clip's log-mel spectrogram."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from genre_cls.configuration.members import is_of_mfccs, is_of_modulations, is_of_statistics, sees_modulations
from genre_cls.inference.prediction import Clip, Explanation
from genre_cls.models.modelfile import Usage
from genre_cls.models.network import Network
from genre_cls.models.views import EPSILON, medians, mfccs, view_of
from genre_cls.processes.threads import in_threads
from genre_cls.progress import progress_bar
from genre_cls.tracks.features import FeatureSpec, cosines
from genre_cls.tracks.windows import voting_starts

FIRST_STEP = 5  # decades from the first log-spaced step to the end of the path
OVERLAP = 0.5  # least overlap of windows that fade at both ends, as those of modulation spectra do
AT_ONCE = 2**20  # values of windows along the path that a network is given at once, or else one window
STEPS = 32  # of the integral; four times as many change the evidence by about a per cent


def explained(networks: Sequence[Network], usage: Usage, clip: Clip, genre: int) -> Explanation:
    """Attribute the logit of a genre to times and frequencies, averaged over networks and windows.

    MFCCs are linear in the log-mel spectrogram, so the gradients are propagated to mel bands through the transposed
    DCT.

    Args:
        networks: the members of the ensemble.
        usage: how they are to be used.
        clip: to explain.
        genre: index of the genre.

    Source: Sundararajan, Taly and Yan, Axiomatic attribution for deep networks, ICML 2017.
    """
    n_frames, n_clip = usage.spec.n_frames(usage.window), clip.mel.shape[1]
    frames = torch.arange(max(n_clip, n_frames)) % n_clip  # a short clip is repeated until it fills a window
    mel = torch.from_numpy(clip.mel)[:, frames]  # (n_mels, n_repeated)
    basis, evidence, difference = _basis(usage.spec), torch.zeros_like(mel), 0.0
    windows = list(_windows(networks, usage, mel))

    def integrated(window: tuple[Network, int, float]) -> tuple[Tensor, float]:
        network, start, _ = window
        return _integrated(network, basis, mel[:, start : start + n_frames], genre)

    results = progress_bar(in_threads(integrated, windows), "Explaining", total=len(windows))
    for (_, start, weight), (window_evidence, gain) in zip(windows, results, strict=True):
        evidence[:, start : start + n_frames] += weight * window_evidence
        difference += weight * gain
    # The evidence in a repetition counts for the frame that it repeats.
    evidence = torch.zeros(clip.mel.shape).index_add_(1, frames, evidence)
    return Explanation(usage.genres[genre], clip, evidence.numpy(), difference, _baseline(networks))


def _windows(networks: Sequence[Network], usage: Usage, mel: Tensor) -> Iterator[tuple[Network, int, float]]:
    """Yield the windows of a clip that each network explains: the network, the first frame, the share in the mean."""
    spec = replace(usage.spec, kind="mel")
    for network in networks:
        least = overlap(network.view, usage.overlap)
        starts = voting_starts(mel.numpy(), spec.n_frames(usage.window), least, spec)
        yield from ((network, start, 1 / (len(networks) * len(starts))) for start in starts)


def _integrated(network: Network, basis: Tensor, window: Tensor, genre: int) -> tuple[Tensor, float]:
    """Return each value's contribution to the logit `(n_mels, n_frames)`, and the difference that they add up to.

    The path starts at the training tracks' mean, which is standardised to zeros; for statistics, at the mean of the
    training tracks' medians, in which nothing moves. For modulation spectra it leads through such spectra, as no clip
    has their mean, and what each energy contributes is then divided among the values that it comes from.

    Args:
        network: a member of the ensemble.
        basis: from mel bands to features `(n_bins, n_mels)`.
        window: log-mel spectrogram `(n_mels, n_frames)`, dB.
        genre: index of the genre.
    """
    if is_of_modulations(network.view):
        moving = (window - window.mean(dim=1, keepdim=True)).requires_grad_()
        spectrum = view_of((basis @ moving)[None, None], network.view)[0, 0]  # (n_rows, n_rates)
        contributions, difference = _along_path(
            lambda spectra: _relative(network.logits(spectra[:, None]), genre), network.mean, spectrum.detach()
        )
        return _divided(contributions, spectrum, moving), difference
    # The rows of the basis are orthonormal, and so are those of the DCT from mel bands to MFCCs: a transpose inverts.
    to_view = mfccs(basis) if is_of_mfccs(network.view) else basis  # (n_bins of the view, n_mels)
    of_statistics = is_of_statistics(network.view)
    baseline = to_view.T @ (medians(network.mean, len(to_view)) if of_statistics else network.mean)
    return _along_path(
        lambda mels: _relative(network((basis @ mels)[:, None]), genre),
        baseline.expand_as(window),
        window,
        starts_still=of_statistics,
    )


def _along_path(
    logit: Callable[[Tensor], Tensor], start: Tensor, end: Tensor, *, starts_still: bool = False
) -> tuple[Tensor, float]:
    """Integrate gradients along the straight path between two inputs; return the end's contributions and their sum.

    Args:
        logit: of a batch of inputs `(batch, *shape)`, `(batch,)`.
        start: of the path, an input.
        end: of the path, an input.
        starts_still: whether log energies of what moves are steepest near the start.
    """
    ends = _ends(starts_still)[:, None, None]
    middles, widths = (ends[1:] + ends[:-1]) / 2, ends[1:] - ends[:-1]
    mean_gradient, at_once = torch.zeros_like(end), max(1, AT_ONCE // end.numel())
    for middle, width in zip(torch.split(middles, at_once), torch.split(widths, at_once), strict=True):
        path = (start + middle * (end - start)).requires_grad_()  # (at_once, *shape)
        (gradients,) = torch.autograd.grad(logit(path).sum(), path)
        mean_gradient += (gradients * width).sum(dim=0)
    with torch.no_grad():
        after, before = logit(torch.stack([end, start]))
    return (end - start) * mean_gradient, float(after - before)


def _divided(contributions: Tensor, spectrum: Tensor, moving: Tensor) -> Tensor:
    """Divide what a modulation spectrum contributes among the values that it comes from `(n_mels, n_frames)`.

    Each energy is a quadratic form of the values' deviations from their means, so that these times half the gradient of
    its logarithm are their shares in it. What remains, as the logarithm is of a little more, belongs to none of them.

    Args:
        contributions: of each log energy `(n_rows, n_rates)`.
        spectrum: the log energies, with their graph.
        moving: the deviations `(n_mels, n_frames)`.
    """
    (gradients,) = torch.autograd.grad(spectrum, moving, contributions / 2)
    evidence = (moving * gradients).detach()
    return evidence + (contributions * EPSILON / spectrum.detach().exp()).sum() / evidence.numel()


def _baseline(networks: Sequence[Network]) -> str:
    """Where the paths start, in words."""
    mean, still = "the training tracks' mean", "a still clip of the training tracks' medians"
    machines = [is_of_statistics(network.view) for network in networks]
    if all(machines):
        return still
    return f"{mean} ({still}, for kernel machines)" if any(machines) else mean


def overlap(view: str, least: float) -> float:
    """Return the share of a window by which windows overlap, such that all frames carry similar weight.

    Args:
        view: of the network.
        least: overlap of the windows that are classified.
    """
    return max(least, OVERLAP) if sees_modulations(view) else least


def _ends(starts_still: bool) -> Tensor:
    """Return the ends of a path's steps `(n_steps + 1,)`, from 0 to 1; log-spaced where it begins without movement."""
    if not starts_still:
        return torch.linspace(0, 1, STEPS + 1)
    return torch.cat([torch.zeros(1), torch.logspace(-FIRST_STEP, 0, 4 * STEPS)])


def _relative(logits: Tensor, genre: int) -> Tensor:
    """A genre's logits relative to the mean of all, `(batch,)`, since a constant added to all changes no softmax."""
    return logits[:, genre] - logits.mean(dim=1)


def _basis(spec: FeatureSpec) -> Tensor:
    """From mel bands to features `(n_bins, n_mels)`."""
    return torch.eye(spec.n_mels) if spec.kind == "mel" else cosines(spec.n_mfcc, spec.n_mels)
