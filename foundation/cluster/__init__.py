"""Runs as jobs of a cluster, or of this machine: submission, the queue, and what is done when a job ends."""
