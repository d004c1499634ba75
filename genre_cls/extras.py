"""What is not installed with genre_cls, and how to install it."""

from collections.abc import Iterator
from contextlib import contextmanager

from genre_cls.errors import UserError


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Tell in one line how to get a package that cannot be imported.

    Args:
        extra: name of the optional dependency in pyproject.toml that brings it.

    Raises:
        UserError: an import within failed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed; pip install 'genre_cls[{extra}]' brings it") from error
