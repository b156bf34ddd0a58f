"""Sound: recordings as log-mel spectrograms."""
