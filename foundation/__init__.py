"""Self-supervised pretraining of encoders, from shards to a report. Start with ``foundation --help``."""

__version__ = "0.1.0"
