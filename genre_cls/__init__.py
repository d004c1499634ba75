"""genre_cls: which features and which CNN classify music genres best?"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genre_cls.classifier import GenreClassifier, Prediction

__all__ = ["GenreClassifier", "Prediction"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what takes seconds when it is asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from genre_cls import classifier

    return getattr(classifier, name)
