"""Words of sbatch, srun and torch, as they were printed, and what they mean."""

from __future__ import annotations

import pytest

from foundation.cluster import explain


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("sbatch: error: invalid partition specified: nope", "--partition"),
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
            "--account",
        ),
        ("sbatch: error: Batch job submission failed: Invalid qos specification", "--qos"),
        (
            "sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds limit)",
            "--time",
        ),
        ("sbatch: error: Batch job submission failed: Invalid feature specification", "'%N %f'"),
        ("sbatch: error: Memory specification can not be satisfied", "--mem"),
        (
            "sbatch: error: Batch job submission failed: Requested node configuration is not available",
            "--gpus-per-node",
        ),
        ("sbatch: error: Unable to contact slurm controller (connect failure)", "scontrol ping"),
        ("sbatch: unrecognized option '--foo=1'", "--sbatch"),
    ],
)
def test_each_refusal_of_sbatch_has_its_own_words_and_what_to_do(said, advice):
    found = explain.of_submission(f"Traceback (most recent call last):\n  File x\n{said}\n")
    assert said.rpartition(": ")[2] in found and advice in found
    assert "Traceback" not in found


def test_words_that_nobody_foresaw_are_shown_as_they_are():
    assert explain.of_submission("sbatch: error: the moon is full") == "sbatch refused the job: the moon is full"


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "the GPU's memory"),
        (
            "slurmstepd: error: Detected 1 oom_kill event in StepId=12.0. Some of the step tasks have been OOM Killed.",
            "--mem",
        ),
        (
            "[Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7) ran for 600000 milliseconds",
            "named as behind",
        ),
        ("The server socket has failed to bind to [::]:29500 (errno: 98 - Address already in use).", "the port"),
        ("process 1 of 2 could not join the others at n1:20000: timed out", "could not reach the first node"),
        ("OSError: [Errno 28] No space left on device", "make room"),
        ("RuntimeError: CUDA error: uncorrectable ECC error encountered", "exclude it"),
    ],
)
def test_each_end_of_a_run_has_its_cause(said, cause):
    assert cause in (explain.of_run(said, None, 2) or "")


def test_an_end_that_nobody_foresaw_has_no_cause():
    assert explain.of_run("ZeroDivisionError: division by zero", None, 1) is None


@pytest.mark.parametrize(
    ("size", "accumulate", "processes", "expected"),
    [
        (64, 1, 2, "train.accumulate=2 (16 instead of 32 samples at a time in each process)"),
        (96, 2, 4, "train.accumulate=3 (8 instead of 12 samples at a time in each process)"),
        (28, 1, 4, "train.accumulate=7 (1 instead of 7 samples at a time in each process)"),
        (8, 4, 2, "each process has 1 sample at a time already"),
    ],
)
def test_the_next_micro_batch_divides_the_batch(size, accumulate, processes, expected):
    recipe = {"train": {"batch_size": size, "accumulate": accumulate}}
    found = explain.smaller_micro_batch(recipe, processes)
    assert found.startswith(expected)
    if "train.accumulate=" in found:
        assert size % (processes * int(found.partition("=")[2].split()[0])) == 0
