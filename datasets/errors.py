"""The two ways in which data can be wrong. Both carry a complete message; commands print it without a traceback."""

from ..toolbox.dassl.errors import WrongValue


class DataMissing(FileNotFoundError):
    """A folder, a file or images are not where they were expected; the message says how to get them."""


class DataError(WrongValue):
    """Data are there but not as they should be: a file cut short, labels with gaps, two names for one label."""
