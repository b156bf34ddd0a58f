"""The ``foundation`` command as a user calls it."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from foundation import cli, compatibility
from foundation.errors import DataBudgetError, RequeueRequest, UserError

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted({entry[0] for entry in cli.VERBS.values() if (ROOT / entry[0]).suffix == ".py"})
HEAVY = ("torch", "numpy", "torchvision", "timm", "webdataset", "yaml", "rich", "PIL", "matplotlib")


def foundation(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-m", "foundation", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300)


def imported_by(code: str) -> set[str]:
    """Heavy packages that a piece of code imports."""
    end = f"\nimport sys; print('imported:', *[m for m in {HEAVY!r} if m in sys.modules])"
    command = [sys.executable, "-c", textwrap.dedent(code) + end]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True, timeout=300)
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_help_teaches_every_verb():
    done = foundation("--help")
    assert done.returncode == 0
    for verb, (_, text) in cli.VERBS.items():
        assert f"  {verb}" in done.stdout and text in done.stdout
    assert "examples:" in done.stdout and "Exit codes" in done.stdout
    assert foundation().stdout == done.stdout


def test_help_and_version_import_nothing_heavy():
    assert imported_by("from foundation.cli import main; main(['--help'])") == set()
    assert imported_by("from foundation.cli import main; main(['--version'])") == set()


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_help_of_a_verb_imports_nothing_heavy(script: str):
    verb = next(verb for verb, entry in cli.VERBS.items() if entry[0] == script)
    code = f"""
        from foundation.cli import main
        try:
            main([{verb!r}, '--help'])
        except SystemExit as end:
            assert end.code == 0
    """
    assert imported_by(code) <= {"yaml"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_runs_from_a_checkout_that_is_not_installed(script: str, tmp_path: Path):
    without_site = [sys.executable, "-S", "-E"] if script == "tools/recipes.py" else [sys.executable]
    done = subprocess.run(
        [*without_site, str(ROOT / script), "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert Path(script).name in done.stdout.splitlines()[0]


def test_version_names_the_packages_that_matter():
    text = foundation("--version").stdout
    assert text.startswith("foundation 0.") and f"torch {importlib.metadata.version('torch')}" in text


def test_an_unknown_verb_is_the_users_mistake():
    done = foundation("knnn")
    assert done.returncode == 2 and done.stdout == ""
    assert "foundation: no verb 'knnn'; did you mean 'knn'?" in done.stderr and "Traceback" not in done.stderr


def test_recipes_are_listed_shown_and_copied(tmp_path: Path):
    assert "  quickstart\n" in foundation("recipes", "list").stdout
    shown = foundation("recipes", "show", "quickstart").stdout
    assert "encoder:" in shown
    assert foundation("recipes", "copy", "quickstart", "my.yaml", cwd=tmp_path).returncode == 0
    assert (tmp_path / "my.yaml").read_text() == shown.replace("name: quickstart\n", "name: my\n")
    again = foundation("recipes", "copy", "quickstart", "my.yaml", cwd=tmp_path)
    assert again.returncode == 2 and "exists already" in again.stderr
    unknown = foundation("recipes", "show", "quikstart")
    assert unknown.returncode == 2 and "did you mean 'quickstart'" in unknown.stderr


def test_a_reader_that_leaves_is_no_error():
    code = (
        f"PYTHONPATH={ROOT} {sys.executable} -m foundation recipes show quickstart | head -n 0; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stderr == "" and done.stdout.strip() in ("0", "141")


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Adds a verb whose script ends as the test says."""

    def add(body: str) -> list[str]:
        script = f"""
            import argparse
            DESCRIPTION = "A verb of the test."
            def add_arguments(parser):
                parser.add_argument("words", nargs="*")
                parser.add_argument("--flag", action="store_true")
            def run(arguments):
                from foundation import errors
                {body}
        """
        (tmp_path / "verb_of_the_test.py").write_text(textwrap.dedent(script))
        monkeypatch.setitem(cli.VERBS, "toy", ("tools/verb_of_the_test.py", ""))
        monkeypatch.setattr("foundation.paths.bundled", lambda folder: tmp_path)
        return ["toy"]

    return add


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("return 0", 0),
        ("return None", 0),
        ("return 7", 7),
        ("raise errors.UserError('no such shards')", UserError.exit_code),
        ("raise errors.DataBudgetError('no such shards')", DataBudgetError.exit_code),
        ("raise errors.RequeueRequest('no such shards')", RequeueRequest.exit_code),
        ("raise KeyboardInterrupt", 130),
    ],
)
def test_exit_codes(verb, body: str, code: int, capsys: pytest.CaptureFixture[str]):
    assert cli.main(verb(body)) == code
    error = capsys.readouterr().err
    if "such" in body:
        assert error == "foundation: no such shards\n"


def test_an_unexpected_error_keeps_its_traceback(verb):
    with pytest.raises(ZeroDivisionError):
        cli.main(verb("1 / 0"))


def test_options_may_stand_between_settings(verb):
    words = verb("return 0 if arguments.words == ['a=1', 'b=2', 'c=3'] and arguments.flag else 1")
    assert cli.main([*words, "a=1", "--flag", "b=2", "c=3"]) == 0


def test_a_folder_of_scripts_is_a_verb_with_names(tmp_path: Path):
    done = foundation("bench", "no-such-bench")
    assert done.returncode == 2 and "no bench called 'no-such-bench'" in done.stderr
    listed = foundation("bench", "--help")
    assert listed.returncode == 0 and "  loader       samples per second and core" in listed.stdout


def metadata(monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], asks_for: str) -> None:
    monkeypatch.setattr(compatibility, "installed", installed.get)
    monkeypatch.setattr(compatibility, "requires", lambda package: ["numpy", asks_for, "pillow; extra == 'x'"])


@pytest.mark.parametrize("asks_for", ["torch==2.15.0", "torch (>=2.14.0)", "torch<3,>=2.14"])
def test_a_torchvision_that_does_not_fit_is_explained(monkeypatch: pytest.MonkeyPatch, asks_for: str):
    metadata(monkeypatch, {"torch": "2.13.0+cpu", "torchvision": "0.29.2", "timm": "1.0.31"}, asks_for)
    error = RuntimeError("operator torchvision::nms does not exist\nmore")
    message = str(compatibility.explain_import_error("timm", error))
    assert "timm 1.0.31 cannot be imported with torch 2.13.0+cpu (operator torchvision::nms does not exist)" in message
    wanted = asks_for.removeprefix("torch").strip(" ()")
    assert f"torchvision 0.29.2 was built for torch {wanted}" in message
    assert f"pip install 'torch{wanted}' torchvision==0.29.2" in message and "\n" not in message


def test_wheels_for_different_devices_are_explained(monkeypatch: pytest.MonkeyPatch):
    metadata(monkeypatch, {"torch": "2.15.0+cpu", "torchvision": "0.29.2"}, "torch==2.15.0")
    assert "different devices" in str(compatibility.explain_import_error("torchvision", OSError("libcudart.so")))


def test_a_missing_package_is_explained(monkeypatch: pytest.MonkeyPatch):
    metadata(monkeypatch, {"torch": "2.15.0", "timm": "1.0.31"}, "torch==2.15.0")
    missing = ModuleNotFoundError("No module named 'torchvision'")
    assert "pip install torchvision" in str(compatibility.explain_import_error("torchvision", missing))
    assert "it needs torchvision" in str(compatibility.explain_import_error("timm", missing))
    assert compatibility.torch_for_torchvision() is None


def test_the_installed_pair_is_read_from_its_metadata():
    wanted = compatibility.torch_for_torchvision()
    assert wanted is not None and compatibility._fits(importlib.metadata.version("torch"), wanted)


def test_words_that_are_nearly_right_are_answered_with_the_right_ones(capsys):
    def said(*words: str) -> str:
        assert cli.main(words) == 2
        return capsys.readouterr().err

    assert "did you mean 'quickstart'?" in said("quikstart")
    assert "did you mean 'build'?" in said("data", "buidl")
    assert "did you mean 'audio-folder'?" in said("data", "build", "audio_foldr", "out")
    assert "did you mean 'photos-gpu'" in (text := said("pretrain", "photo-gpu", "--dry-run")) and "atst" not in text
    assert "without dashes: train.batch_size=32 " in said("pretrain", "quickstart", "--train.batch_size=32")
    text = said("pretrain", "quickstart", "views.jitter=7", "--dry-run")
    assert "1 problem in" in text and "views: views" not in text


def test_every_recipe_says_what_it_suits_and_a_copy_has_a_name_of_its_own(tmp_path, capsys):
    from foundation.catalogue import entries

    assert cli.main(["recipes", "list"]) == 0
    listed = " ".join(capsys.readouterr().out.split())
    for entry in entries():
        about = entry.about
        assert about.summary.endswith(".") and about.hardware, entry.name
        assert f"{entry.name} {about.summary}" in listed, "no sentence is cut"
        assert about.samples or entry.name.startswith("quickstart"), entry.name
    assert cli.main(["recipes", "list", "imu"]) == 0
    assert "hapt-mae-nano" in (out := capsys.readouterr().out) and "photos-cpu" not in out
    assert cli.main(["recipes", "copy", "photos-cpu", str(tmp_path / "birds.yaml")]) == 0
    text = (tmp_path / "birds.yaml").read_text()
    assert "\nname: birds\n" in text and "name: photos-cpu" not in text
    assert cli.main(["recipes", "copy", "photos-cpu", str(tmp_path / "my birds.yaml")]) == 2


def test_a_warning_of_a_library_is_one_line_without_its_source():
    code = """
        import sys; sys.argv = ["foundation", "--version"]
        from foundation.cli import main
        main()
        import warnings; warnings.warn("two\\nlines", RuntimeWarning); warnings.warn("old", FutureWarning)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr == "warning: two lines (RuntimeWarning)\n"


DATA_PARALLEL = """
import os, sys
sys.argv = ["foundation", "--version"]
from foundation.cli import main
main()
import torch
torch.distributed.init_process_group("gloo", init_method=f"file://{os.getcwd()}/meeting", rank=0, world_size=1)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2), find_unused_parameters=True)
for _ in range(2):
    model(torch.ones(1, 2)).sum().backward()
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_torch_does_not_tell_the_user_about_parameters_that_are_all_used(tmp_path):
    """Some encoders cannot say beforehand whether all of their parameters are used in every step."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", DATA_PARALLEL], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0 and "find_unused_parameters" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "required: recipe (foundation"),
        (["x", "--train.batch_size", "32"], "settings are written without dashes: train.batch_size=VALUE ("),
        (["x", "--train.batch_size=32"], "settings are written without dashes: train.batch_size=32 ("),
        (["x", "--dryrun"], "--dryrun; did you mean '--dry-run'? ("),
        (["x", "--colour=3"], "--colour=3; settings of the recipe are written as key=value"),
    ],
)
def test_slips_on_the_command_line_say_what_to_type(words: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["pretrain", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("stem", ["null", "1e3", "true", "mine-2"])
def test_a_copied_recipe_is_named_by_text_whatever_its_file_is_called(stem: str, tmp_path: Path, capsys):
    from foundation import config
    from foundation.run.recipe import Recipe

    folder = tmp_path / "my recipes"
    folder.mkdir()
    assert cli.main(["recipes", "copy", "quickstart", str(folder / f"{stem}.yaml")]) == 0
    assert f"foundation pretrain '{folder}/{stem}.yaml'" in capsys.readouterr().out
    assert config.load(Recipe, folder / f"{stem}.yaml").name == stem


def test_an_interrupt_in_an_import_ends_the_program_though_the_importer_drops_it(tmp_path: Path):
    (tmp_path / "slow_module.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(1)\n"
    )
    code = """
        import signal
        from foundation.ctrl_c import end_while_importing
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
        end_while_importing()
        try:
            import slow_module
        except BaseException:
            pass
        print("went on")
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "foundation: interrupted\n")


@pytest.mark.parametrize(
    ("words", "said"), [(["help"], "usage: foundation [--help"), (["help", "data"], "usage: foundation data")]
)
def test_help_is_a_word_too(words, said, capsys):
    try:
        code = cli.main(words)
    except SystemExit as end:  # argparse's own way of ending after a help
        code = end.code
    assert code == 0
    assert capsys.readouterr().out.startswith(said)
