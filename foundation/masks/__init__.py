"""Token masks: which patch tokens a branch must not see. One file for each kind of mask, what they share in ``rule``.

Drawn on the host, by counter, without a generator. The masks of a batch are a pure function of (seed, step, sample):
how many rows of the *global* batch are masked is exact, whatever the number of processes, and each process makes only
its own rows. Letters: R rows, N tokens.
"""
