"""Names of plug-ins: built-in files, entry points of other packages, dotted modules."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from foundation import plugins
from foundation.errors import UserError

OBJECTIVES = "foundation.objectives.{name}"
VIEWS = "foundation.modalities.{name}.views"

PLUGIN = """
from dataclasses import dataclass

@dataclass(frozen=True, kw_only=True)
class Config:
    strength: float = 2.0
    def build(self):
        return self.strength
"""


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package of someone else, with an objective and a modality, installed with entry points."""
    package = tmp_path / "their_package"
    (package / "thermal").mkdir(parents=True)
    for file in ("__init__.py", "thermal/__init__.py"):
        (package / file).write_text("")
    (package / "vicreg.py").write_text(PLUGIN)
    (package / "thermal" / "views.py").write_text(PLUGIN)
    (package / "no_config.py").write_text("x = 1\n")
    (package / "broken.py").write_text("import a_library_that_is_not_there\n")
    metadata = tmp_path / "their_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[foundation.objectives]\ntheirs = their_package.vicreg\n"
        "[foundation.modalities]\nheat = their_package.thermal\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(plugins, "_allowed", set())
    yield "their_package"
    for name in [name for name in sys.modules if name.startswith("their_package")]:
        del sys.modules[name]


def test_built_in_names_are_the_files_that_define_config():
    names = plugins.available(OBJECTIVES)
    assert {"dino", "ibot", "koleo"} <= set(names)
    assert not {"__init__", "base", "centering"} & set(names)
    assert "image" in plugins.available(VIEWS)


def test_listing_imports_nothing():
    code = (
        "import sys; from foundation.plugins import available; available('foundation.objectives.{name}'); "
        "print([m for m in sys.modules if m.startswith('foundation.objectives') or m == 'torch'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_built_in_file_answers_to_its_name():
    assert plugins.resolve(OBJECTIVES, "koleo").__name__ == "foundation.objectives.koleo"
    assert plugins.resolve(VIEWS, "image").__name__ == "foundation.modalities.image.views"


def test_entry_points_of_other_packages_answer(other_package: str):
    assert plugins.resolve(OBJECTIVES, "theirs").__name__ == "their_package.vicreg"
    assert plugins.resolve(VIEWS, "heat").__name__ == "their_package.thermal.views"
    assert "theirs" in plugins.available(OBJECTIVES)


def test_dotted_modules_answer(other_package: str):
    assert plugins.resolve(OBJECTIVES, "their_package.vicreg", own=True).Config().build() == 2.0
    assert plugins.resolve(VIEWS, "their_package.thermal", own=True).__name__ == "their_package.thermal.views"


def test_a_dotted_module_of_which_the_user_has_not_spoken_is_not_imported(other_package: str):
    for pattern, name in ((OBJECTIVES, "their_package.vicreg"), (VIEWS, "their_package.thermal")):
        with pytest.raises(UserError, match=rf"names in data are not trusted.*--allow-plugins {name}"):
            plugins.resolve(pattern, name)
    assert not any(name.startswith("their_package") for name in sys.modules)
    plugins.allow("their_package")
    assert plugins.resolve(OBJECTIVES, "their_package.vicreg").__name__ == "their_package.vicreg"


def test_what_the_user_has_named_once_has_all_its_rooms(other_package: str):
    plugins.resolve(VIEWS, "their_package.thermal", own=True)
    assert plugins.resolve(VIEWS, "their_package.thermal").__name__ == "their_package.thermal.views"
    with pytest.raises(UserError, match="not trusted"):
        plugins.resolve(OBJECTIVES, "their_package.vicreg")


def test_name_of_leads_back_to_the_module(other_package: str):
    """An installed package is known by its entry point, so that its runs go on without a word of trust."""
    for pattern, name, written in (
        (OBJECTIVES, "koleo", "koleo"),
        (OBJECTIVES, "their_package.vicreg", "theirs"),
        (OBJECTIVES, "theirs", "theirs"),
        (VIEWS, "their_package.thermal", "heat"),
    ):
        module = plugins.resolve(pattern, name, own=True)
        found = plugins.name_of(pattern, module.Config())
        assert found == written and plugins.resolve(pattern, found) is module


def test_an_unknown_name_lists_the_near_and_the_possible_ones():
    with pytest.raises(UserError, match=r"no objective called 'dinoo'; did you mean 'dino'\? \(available: .*koleo"):
        plugins.resolve(OBJECTIVES, "dinoo")
    with pytest.raises(UserError, match="no modality called 'imagee'"):
        plugins.resolve(VIEWS, "imagee")
    with pytest.raises(UserError, match=r"no objective called 'nowhere\.at_all'"):
        plugins.resolve(OBJECTIVES, "nowhere.at_all", own=True)
    with pytest.raises(UserError, match="no objective called 'base'"):
        plugins.resolve(OBJECTIVES, "base")


@pytest.mark.parametrize("name", ["", "../errors", "dino/..", "a..b", ".dino", "dino.py;", "os path", "/etc/passwd", 3])
def test_a_name_cannot_leave_its_folder(name: str):
    with pytest.raises(UserError, match="cannot name a module"):
        plugins.resolve(OBJECTIVES, name)


def test_a_module_without_config_is_refused(other_package: str):
    with pytest.raises(UserError, match=r"their_package\.no_config.*has no class 'Config'"):
        plugins.resolve(OBJECTIVES, "their_package.no_config", own=True)


def test_a_library_that_a_plugin_misses_is_not_hidden(other_package: str):
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_there"):
        plugins.resolve(OBJECTIVES, "their_package.broken", own=True)
