"""What of a checkout is copied for a job, and what of the environment reaches it."""

from __future__ import annotations

import os
import subprocess

import pytest

from foundation.cluster import environment, snapshot


def git(folder, *words):
    identity = ("-c", "user.name=t", "-c", "user.email=t@t")
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "checkout"
    for name in ("foundation/a.py", "foundation/gone.py", "launchers/local.py", "docs/page.md", "tools/t.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("old")
    return root


def copied(target):
    files = [path for path in target.rglob("*") if path.is_file() and path.name != "commit.json"]
    return {path.relative_to(target).as_posix(): path.read_text() for path in files}


def test_the_code_is_copied_as_it_stands_with_new_files_and_without_ignored_ones(checkout, tmp_path):
    (checkout / ".gitignore").write_text("*.log\n")
    git(checkout, "init", "-q")
    git(checkout, "add", "-A")
    git(checkout, "commit", "-qm", "x")
    (checkout / "foundation" / "a.py").write_text("new")
    (checkout / "foundation" / "gone.py").unlink()
    (checkout / "foundation" / "plug.py").write_text("mine")
    (checkout / "foundation" / "huge.log").write_text("x")
    code = snapshot.snapshot(tmp_path / "code", checkout)
    assert code.path == tmp_path / "code"
    assert copied(tmp_path / "code") == {
        "foundation/a.py": "new", "foundation/plug.py": "mine", "launchers/local.py": "old", "tools/t.py": "old",
    }  # fmt: skip


def test_a_checkout_without_git_is_copied_but_for_compiled_files(checkout, tmp_path):
    (checkout / "foundation" / "a.pyc").write_text("x")
    snapshot.snapshot(tmp_path / "code", checkout)
    assert set(copied(tmp_path / "code")) == {
        "foundation/a.py",
        "foundation/gone.py",
        "launchers/local.py",
        "tools/t.py",
    }


def test_an_installed_package_stays_where_it_is(tmp_path):
    (tmp_path / "site" / "foundation").mkdir(parents=True)
    code = snapshot.snapshot(tmp_path / "code", tmp_path / "site")
    assert code.path is None and not (tmp_path / "code").exists() and "as installed" in code.described()


def test_variables_of_the_job_that_submits_do_not_reach_the_new_one(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "3")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    monkeypatch.setenv("SBATCH_ACCOUNT", "mine")
    monkeypatch.setenv("RANK", "1")
    with environment.without_stale_variables() as names:
        assert {"SLURM_CPUS_PER_TASK", "RANK"} <= set(names)
        assert "SLURM_CPUS_PER_TASK" not in os.environ and "RANK" not in os.environ
        assert os.environ["SLURM_CONF"] == "/etc/slurm.conf" and os.environ["SBATCH_ACCOUNT"] == "mine"
    assert os.environ["SLURM_CPUS_PER_TASK"] == "3" and os.environ["RANK"] == "1"


def test_the_captured_environment_names_packages_and_no_secret(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    found = environment.captured()
    assert found["variable NCCL_DEBUG"] == "INFO" and "package torch" in found
    assert "hidden" not in str(found)
