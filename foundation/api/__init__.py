"""What ``import foundation`` offers, one file for each call; :mod:`foundation` imports them when they are used."""
