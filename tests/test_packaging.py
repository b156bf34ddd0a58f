"""What is installed, and what must never be."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("datasets", "launchers", "model_zoo", "tools")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SCRIPTS = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))


def parts(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).parts)


def test_the_explicit_list_of_packages_is_complete():
    library = {parts(file.parent) for file in (ROOT / "foundation").rglob("__init__.py")}
    scripts = {f"foundation._bundled.{folder}" for folder in FOLDERS}
    scripts |= {f"foundation._bundled.{parts(file.parent)}" for file in SCRIPTS}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == library | scripts


def test_every_folder_of_the_library_is_a_package():
    folders = {file.parent for file in (ROOT / "foundation").rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


def test_the_four_folders_are_no_packages():
    assert not [file for folder in FOLDERS for file in (ROOT / folder).rglob("__init__.py")]


def test_no_script_bears_the_name_of_a_standard_module():
    assert not [parts(file) for file in SCRIPTS if file.stem in sys.stdlib_module_names]


def test_every_script_is_a_verb_or_a_plug_in():
    """Scripts of commands have the same three names, and the same last lines."""
    for file in SCRIPTS:
        text = file.read_text(encoding="utf-8")
        if "__main__" not in text:
            continue
        names = {node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
        assert {"add_arguments", "run"} <= names and "DESCRIPTION" in text, parts(file)
        assert "sys.exit(main_script(__file__))" in text and "sys.path" in text, parts(file)


def test_torchvision_and_timm_are_imported_only_where_they_are_used():
    """What needs neither still runs where they cannot be imported."""
    found = []
    for file in [*(ROOT / "foundation").rglob("*.py"), *SCRIPTS]:
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            imported = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [parts(file) for name in imported if name.split(".")[0] in ("torchvision", "timm")]
    assert not found


def test_files_stay_short():
    limits = {400: (ROOT / "foundation").rglob("*.py"), 450: SCRIPTS}
    long = {parts(f): n for limit, files in limits.items() for f in files if (n := len(f.open().readlines())) > limit}
    assert not long


def test_no_place_of_one_machine_is_named():
    """Sources and documents name no home folder and no package host."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    pattern = re.compile(r"(?<![\w.])/(?:home|root|Users|work)/\w|download\.pytorch\.org|pypi\.org/simple")
    found = []
    for name in listed.stdout.splitlines():
        file = ROOT / name
        if (
            file.suffix in (".py", ".md", ".yaml", ".toml", ".sh", "")
            and file.is_file()
            and name != parts(Path(__file__))
        ):
            text = file.read_text(encoding="utf-8", errors="ignore")
            if file != Path(__file__).resolve() and pattern.search(text):
                found.append(name)
    assert not found


LARGE: dict[str, str] = {
    f"model_zoo/{name}/{name}.safetensors": "weights that come with the package: a model to load without a network"
    for name in ("cifar10-dino-ibot-nano", "hapt-dino-ibot-nano")
}
"""Tracked files above ``MOST_BYTES``, and why each is needed: every clone pays for them, now and for ever."""
MOST_BYTES = 400_000


def test_no_large_file_is_tracked_that_nobody_vouches_for():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    large = {str(file.relative_to(ROOT)): file.stat().st_size for file in files if file.stat().st_size > MOST_BYTES}
    assert large.keys() == LARGE.keys(), "a cache, a result or a picture that is too large? Else vouch for it in LARGE"


def test_every_pattern_of_package_data_brings_a_file():
    settings = PROJECT["tool"]["setuptools"]
    folders = settings["package-dir"]
    for package, patterns in settings["package-data"].items():
        folder = ROOT / folders.get(package, package.replace(".", "/"))
        for pattern in patterns:
            assert list(folder.glob(pattern)), f"{package}: {pattern} matches nothing"


def test_every_data_file_of_the_packages_is_in_a_pattern():
    settings = PROJECT["tool"]["setuptools"]
    brought = set()
    for package, patterns in settings["package-data"].items():
        folder = ROOT / settings["package-dir"].get(package, package.replace(".", "/"))
        brought |= {file for pattern in patterns for file in folder.glob(pattern)}
    there = {file for name in ("foundation", *FOLDERS) for file in (ROOT / name).rglob("*") if file.is_file()}
    assert not {f for f in there - brought if f.suffix not in (".py", ".pyc")}


def test_the_recipe_reference_is_up_to_date():
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "recipe_reference.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_of_the_readme_is_run_or_says_why_not():
    spec = importlib.util.spec_from_file_location("readme_commands", ROOT / ".ci" / "readme_commands.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    text = "# Title\n```bash\na\nb\n```\n<!-- not run: no network -->\n\n```bash\nc\n```\n```python\nd\n```\n"
    found = [(block.line, block.text, block.language, block.reason) for block in module.blocks(text)]
    assert found == [(3, "a\nb", "bash", ""), (9, "c", "bash", "no network"), (12, "d", "python", "")]
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"^```(sh|shell|console)\s*$", shown, re.MULTILINE), "use ```bash, so that CI runs it"
    assert any(not block.reason for block in module.blocks(shown))


def test_no_call_of_the_package_is_hidden_by_a_file_or_folder_of_its_name():
    """Importing ``foundation.NAME`` would put the module in the place of the function."""
    import foundation

    there = {path.stem for path in (ROOT / "foundation").iterdir()}
    assert not there & {name for name in foundation.__all__ if not name.startswith("__")}


def test_every_package_of_the_core_is_used_by_the_core():
    """A dependency that no code imports costs every user an installation for nothing."""
    called = {"pyyaml": "yaml", "pillow": "PIL", "scikit-learn": "sklearn"}
    wanted = {re.match(r"[\w-]+", line)[0] for line in PROJECT["project"]["dependencies"]}
    imported = set()
    for file in [*(ROOT / "foundation").rglob("*.py"), *SCRIPTS]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            imported |= {name.split(".")[0] for name in names}
    by_name = {"timm"}  # imported with importlib, so that a broken one can be explained
    assert {called.get(name, name) for name in wanted} <= imported | by_name


def test_every_extra_is_in_all():
    extras = PROJECT["project"]["optional-dependencies"]
    named = set(re.findall(r"\w+", extras["all"][0].split("[")[1]))
    assert named == set(extras) - {"all", "dev"}


@pytest.mark.slow
def test_the_wheel_from_the_source_archive_holds_all_and_exposes_one_name(tmp_path: Path):
    pytest.importorskip("build")
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT)], check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"foundation", wheel.name.rsplit("-", 3)[0] + ".dist-info"}
    for file in SCRIPTS:
        assert f"foundation/_bundled/{file.relative_to(ROOT)}" in names
    for file in (ROOT / "foundation").rglob("*"):
        if file.suffix in (".py", ".yaml", ".html", ".css", ".js"):
            assert str(file.relative_to(ROOT)) in names
    target = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(target)
    environment = os.environ | {"PYTHONPATH": str(target)}
    code = "import foundation, sys; from foundation.paths import bundled; print(foundation.__file__, bundled('tools'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [str(target / "foundation/__init__.py"), str(target / "foundation/_bundled/tools")]


def test_make_says_how_much_it_installs_and_that_it_is_silent(tmp_path: Path):
    if shutil.which("make") is None:
        pytest.skip("no make on this machine")
    for target in ("quickstart", "test"):
        words = ["make", "--dry-run", target, f"VENV={tmp_path / 'venv'}", f"PYTHON={sys.executable}"]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60)
        assert done.returncode == 0, done.stderr
        (line,) = (line for line in done.stdout.splitlines() if "installing foundation" in line)
        assert "up to 6 GB; minutes without a word" in line and line.startswith("echo")
        assert done.stdout.index(line) < done.stdout.index("--editable"), "before it happens"
    assert not (tmp_path / "venv").exists()
