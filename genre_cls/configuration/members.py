"""The names of an ensemble's members in `recipe.members`, each that of the view of a window that it is given."""

# What a model may get of a window: the window as it is; its modulation spectrum alone; or statistics, which have no
# neighbours to convolve, so that a kernel machine replaces the network. And the same of a mel spectrogram's MFCCs.
TREATMENTS = ("plain", "modulation", "statistics")
OF_MFCCS = "mfcc_"
VIEWS = (*TREATMENTS, *(OF_MFCCS + treatment for treatment in TREATMENTS))


def treatment(view: str) -> str:
    """Return which of `TREATMENTS` a view is, whether of the window itself or of its MFCCs."""
    return view.removeprefix(OF_MFCCS)


def is_of_mfccs(view: str) -> bool:
    """Return whether a view is of the window's MFCCs."""
    return view.startswith(OF_MFCCS)


def is_of_statistics(view: str) -> bool:
    """Return whether a view is of statistics, which a kernel machine classifies instead of a network."""
    return treatment(view) == "statistics"


def is_of_modulations(view: str) -> bool:
    """Return whether a view is a modulation spectrum, which has a fixed size."""
    return treatment(view) == "modulation"


def sees_modulations(view: str) -> bool:
    """Return whether a view is a modulation spectrum or contains one."""
    return is_of_modulations(view) or is_of_statistics(view)
