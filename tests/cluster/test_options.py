"""What a job asks for: profiles, the command line over them, and what cannot be."""

from __future__ import annotations

import pytest

from foundation.cluster.options import Options, merged, minutes, profile, profiles
from foundation.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("1:30", 2), ("24:00:00", 1440), ("2-12", 3600), ("1-02:30", 1590), ("1-00:00:30", 1441)],
)
def test_time_limits_are_read_as_slurm_writes_them(text, expected):
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "8h", "1:2:3:4", "-5", "0", "0:00:00"])
def test_what_is_no_time_limit_is_refused(text):
    with pytest.raises(UserError, match="time"):
        minutes(text)


def test_every_shipped_profile_is_read():
    assert {"local", "slurm-gpu", "slurm-cpu"} <= set(profiles())
    found = {name: profile(name) for name in profiles()}
    assert found["slurm-gpu"].world_size == 8 and found["slurm-cpu"].world_size == 8


def test_a_profile_with_mistakes_names_line_and_near_key(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("on: slurm\npartitoin: gpu\nnodes: 0\n")
    with pytest.raises(UserError) as error:
        profile(str(path))
    assert "mine.yaml:2: unknown key 'partitoin'; did you mean 'partition'?" in str(error.value)
    assert "mine.yaml:3: nodes is 0; it must be" in str(error.value)


def test_a_profile_that_is_not_there_names_the_near_one():
    with pytest.raises(UserError, match="did you mean 'slurm-gpu'"):
        profile("slurm-gpus")


def test_the_command_line_wins_over_the_profile_and_adds_to_setup_and_sbatch():
    base = Options(
        on="slurm", nodes=4, partition="a", setup=("module load cuda",), sbatch={"reservation": "x", "nice": "1"}
    )
    found = merged(base, {"nodes": 2, "partition": None, "setup": ["export A=1"], "sbatch": {"nice": "5"}})
    assert (found.nodes, found.partition) == (2, "a")
    assert found.setup == ("module load cuda", "export A=1")
    assert found.sbatch == {"reservation": "x", "nice": "5"}


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"nodes": 2}, "this machine is one"),
        ({"on": "slurm", "gpus_per_node": 8, "tasks_per_node": 4}, "each GPU gets one process"),
        ({"on": "slurm", "mem": "much"}, "no size of memory"),
        ({"on": "slurm", "time": "3", "signal_seconds": 120}, "first half"),
        ({"setup": ("module load cuda",)}, "for a cluster"),
        ({"on": "slurm", "sbatch": {"--nice": "1"}}, "no option of sbatch"),
    ],
)
def test_what_cannot_be_is_refused(given, word):
    with pytest.raises(UserError, match=word):
        Options(**given)


@pytest.mark.parametrize("sign", ["\n", "\r", "\0", "\x1b", "\x85", "\u2028", "\udcff"])
@pytest.mark.parametrize("option", ["partition", "account", "qos", "constraint", "exclude", "setup", "sbatch comment"])
def test_what_would_be_a_line_of_its_own_in_the_script_is_refused(option, sign):
    value = f"a{sign}touch X #"
    given = {"sbatch": {"comment": value}} if option == "sbatch comment" else {option: value}
    given = {"setup": (value,)} if option == "setup" else given
    with pytest.raises(UserError, match=f"^{option}: a.*touch X #"):
        Options(on="slurm", **given)


@pytest.mark.parametrize("option", ["mem", "time"])
def test_a_size_or_a_time_with_a_line_break_is_refused(option):
    with pytest.raises(UserError, match=option):
        Options(on="slurm", **{option: "90\n"})


def test_a_profile_may_hold_no_line_break_in_a_value(tmp_path):
    path = tmp_path / "theirs.yaml"
    path.write_text('on: slurm\npartition: "a\\ntouch X"\n')
    with pytest.raises(UserError, match=r"partition: a.*touch X"):
        profile(str(path))


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("array", "--sweep"), ("output", "jobs logs"), ("error", "jobs logs"), ("open-mode", "jobs logs"),
        ("signal", "--signal-seconds"), ("nodes", "--nodes"), ("ntasks", "--tasks-per-node"),
        ("ntasks-per-node", "--tasks-per-node"), ("no-requeue", "--retries 0"), ("requeue", "--retries"),
        ("job-name", "--run"), ("chdir", "in that folder"), ("time", "--time"), ("partition", "--partition"),
        ("gpus-per-node", "--gpus-per-node"), ("parsable", "is read for"), ("arr", "--sweep"), ("outp", "jobs logs"),
    ],
)  # fmt: skip
def test_what_a_launch_sets_itself_is_no_further_option_of_sbatch(name, instead):
    with pytest.raises(UserError, match=f"is set by foundation launch: .*{instead}"):
        Options(on="slurm", sbatch={name: "1"})


def test_other_options_of_sbatch_are_let_through():
    for name in ("reservation", "nice", "gres", "exclusive", "comment", "mem-per-cpu", "nodelist", "dependency"):
        assert Options(on="slurm", sbatch={name: "a b'c"}).sbatch == {name: "a b'c"}


def test_a_directive_among_the_lines_of_shell_is_refused_and_a_tabulator_is_not():
    with pytest.raises(UserError, match="stand under sbatch"):
        Options(on="slurm", setup=("#SBATCH --array=0-9",))
    assert Options(on="slurm", setup=("if true; then\techo; fi  # SBATCH",)).setup
