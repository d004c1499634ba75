"""Explain to a reader of a report what its numbers mean, and what they do not."""

from genre_cls.evaluation.comparisons import ALPHA, SURE
from genre_cls.evaluation.findings import ABOUT_SELECTION, Report, known_faults, not_listed, shared_artists
from genre_cls.evaluation.scoring import ConfigResult

ABOUT_PAIRS = (
    "Differences of accuracy in points, paired fold by fold. p-values are adjusted for all these comparisons (Holm). "
    'With so many only very large differences are detected: "cannot be told apart" is no evidence of equality. '
    "The corrected t-test allows for retraining. McNemar's test compares the models as trained, track by track (if "
    "several classified a track, the first). It treats tracks as independent: where artists have several, it finds a "
    "difference where there is none in a fifth to two thirds of all simulated grids. No verdict uses it. Practically "
    "equal: the probability that their accuracies differ by less than the setting rope, a point by default."
)
ABOUT_SPLITS = (
    "random: training and test tracks may share artists and recordings, so models partly recognise these. artist: they "
    "share no artist or recording. filtered: the published fault-filtered split, with no artist in common by Sturm's "
    "index except for one joint credit; it trains on fewer tracks than the others and tests on other ones, so a "
    "difference to it is not the artists' alone. The drop's interval treats the splits as independent, which is "
    "conservative where they test the same tracks, and is not adjusted for several configurations."
)
ABOUT_DROPS = (
    "In points, the genre that loses most in the first configuration first. Where a genre has few tracks, it may be "
    "chance."
)
ABOUT_FOLDS = (
    "The tracks are split into parts. In each fold one part is held out: a model is trained on the others and tested "
    "on the part that it never saw."
)
SEVERAL_FOLDS = "Each configuration was trained from scratch in every fold."
ONE_FOLD = "This report has a single fold, so it does not show how much results vary between trainings."
ABOUT_CHOICE = (
    "In this run it set no weight, no number of epochs and no setting; it was only used for testing. (If you chose "
    "settings after seeing earlier reports on these tracks, the held-out tracks have been used for selection. In a "
    "search, inside=true, the trials' held-out tracks do select, so its winner is tested on a fold that no trial saw.)"
)
ABOUT_CURSE = f"The best one's score is {ABOUT_SELECTION}."
ABOUT_ORDER = (
    " Whether intervals overlap says nothing about the order, as the same tracks are compared; see the comparisons in "
    "pairs."
)
GROUPS_INDEPENDENT = (
    "Tracks that share an artist or a recording count as one group, and groups as independent (tracks of unknown "
    "artists as groups of their own)."
)
TRACKS_INDEPENDENT = (
    "Tracks are treated as independent, as nothing is known of their artists: where several are by one, the interval "
    "is too narrow."
)
ABOUT_TRAININGS = (
    "± is the standard deviation over the folds, which all test the same tracks. The 95 % confidence interval is for "
    "the mean; its standard error adds the variance between trainings and that between tracks."
)
ABOUT_INTERVALS = (
    "± is the standard deviation over the folds. The 95 % confidence interval is for the mean. Folds (if more than "
    "two) share training tracks, so their scores are not independent and the usual standard error is too small. The "
    "interval uses the corrected one of Nadeau and Bengio (2003): with k folds and standard deviation s it is s · "
    "√(1/k + test/training tracks), times Student's t with k − 1 degrees of freedom. Where folds differ by less than "
    "one track, it is widened to what the tracks alone give, or the artists if none has tracks both in a fold and "
    "outside it."
)
ABOUT_SCORES = (
    "Accuracy is the share of tracks recognised. Macro F1 balances recall and precision and counts every genre "
    "equally, however many tracks it has. Both are means over the folds, not over all tracks at once, so where a fold "
    "has few tracks of a genre, macro F1 is lower than the F1 of genres below."
)
ABOUT_CONFIDENCE = (
    "Confidence is the probability of the predicted genre. A temperature is a number that makes all probabilities more "
    "extreme (below 1) or less (above 1), and changes no prediction. The calibration error is the mean distance "
    "between confidence and the share that is right."
)
ABOUT_LOSS = (
    "Loss is cross-entropy in nats: 0 is certain and right, and to guess among ten genres is 2.30. A crop is a random "
    "piece of a track, a centre window its middle. Mixup, blends of two tracks, and smoothed labels make training "
    "harder on purpose."
)
ABOUT_SECONDS = (
    "The time that a fold's models took to train and predict, in seconds, added up as if one had come after the other. "
    "Several are trained at once, so a command takes less; features, figures and logging are not included."
)


def how_to_read(report: Report) -> dict[str, str]:
    """Return what a reader has to know about the numbers, by topic."""
    best = report.ranked[0]
    trainings = ONE_FOLD if len(best.folds) == 1 else SEVERAL_FOLDS
    about_verdicts = _about_verdicts(best, report.rope) if report.effects or report.pairs else ""
    curse = ABOUT_CURSE + (ABOUT_ORDER if report.pairs else "")
    topics = {
        "Fold": f"{ABOUT_FOLDS} {trainings}",
        "The held-out part chose nothing": ABOUT_CHOICE,
        "Artists on both sides": _about_shared(best),
        "Winner's curse": curse if len(report.results) > 1 else "",
        **_about_intervals(report),
        "Beats, differ, practically equal, cannot be told apart": about_verdicts,
        "Accuracy and macro F1": ABOUT_SCORES,
        "Confidence and temperature": ABOUT_CONFIDENCE,
        "Loss": ABOUT_LOSS,
        "s per fold": ABOUT_SECONDS,
    }
    return {topic: text for topic, text in topics.items() if text}


def _about_intervals(report: Report) -> dict[str, str]:
    best = report.ranked[0]
    independence = GROUPS_INDEPENDENT if best.has_groups else TRACKS_INDEPENDENT
    if len(best.folds) == 1:
        return {"95 % CI": f"It covers the choice of test tracks alone, as there is one training. {independence}"}
    return {"± and 95 % CI": f"{ABOUT_TRAININGS} {independence}" if best.single_test_set else ABOUT_INTERVALS}


def _about_verdicts(best: ConfigResult, rope: float) -> str:
    points = f"{100 * rope:g} point{'' if rope == 0.01 else 's'}"
    test, posterior = "the corrected resampled t-test", "Bayesian correlated t-test, Corani and Benavoli 2015"
    if best.single_test_set:
        test = "a t-test with the standard error of that interval"
        posterior = "by the posterior with the same standard error"
    return (
        "Two things are compared on the same folds, two settings over all pairs of configurations that differ in "
        f"nothing else. One beats the other if {test} gives p < {ALPHA:g} after Holm's correction (1979) for all "
        f"comparisons of its kind, which keeps the chance of any false one below {100 * ALPHA:g} %, as far as tracks "
        f"are independent. They are practically equal if the difference is below {points} with a probability of "
        f"at least {100 * SURE:g} % ({posterior}). "
        "Otherwise the data do not decide: they differ, but not significantly, if the interval of that single "
        "comparison lies above zero, else they cannot be told apart. Intervals are not adjusted."
    )


def _about_shared(result: ConfigResult) -> str:
    consequence = "so models partly recognise these instead of the genre; folds=artist keeps each on one side."
    shared = shared_artists(result)
    return f"{shared}, {consequence}" if shared else ""


def about_pairs(report: Report) -> str:
    """Return an explanation of `tables.each_against_each`."""
    return " ".join((ABOUT_PAIRS, *not_listed(report.pairs)))


def about_missed(report: Report) -> str:
    """Return an explanation of the columns of `tables.missed_tracks`, with the sentence on known faults."""
    if len(report.ranked) == 1:
        about = (
            'Of one configuration, so "missed by" is always 100 %. "Taken for" is the genre predicted, "confidence" '
            "its probability without a temperature, the mean over the folds that tested the track."
        )
    else:
        about = (
            f'Pooled over the {len(report.ranked)} configurations. "Missed by" is the share that gets the track '
            'wrong, "taken for" the wrong genre predicted most, "confidence" the mean probability that all of them '
            "give that genre, without a temperature."
        )
    return " ".join(filter(None, (about, known_faults(report))))
