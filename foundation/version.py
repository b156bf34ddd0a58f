"""Version of this package. Imports nothing: it is read before the working directory has left Python's path."""

VERSION = "0.1.0"
