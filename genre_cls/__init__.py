"""genre_cls: which features and which CNN classify music genres best?"""

__version__ = "0.1.0"
