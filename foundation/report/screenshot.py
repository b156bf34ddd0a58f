"""A picture of the top of a page, drawn by a browser that is installed; that of the README is one."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from foundation.errors import UserError
from foundation.files import replace_file

if TYPE_CHECKING:
    from PIL.Image import Image

WIDTH, HEIGHT = 1100, 1830  # CSS pixels
HIGHEST = 8000
_MARGIN = 24
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_SECONDS = 180.0
_SETTLED = 3000
_QUIET = (
    "--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def screenshot(page: Path | str, out: Path, width: int = WIDTH, height: int | None = HEIGHT) -> Path:
    """Draw a page, or its top.

    Args:
        page: HTML file that needs no network, or the address of a page that this machine serves.
        out: PNG; replaced if it exists.
        width: of the window, CSS pixels.
        height: likewise; None: as the page is, up to ``HIGHEST``.

    Returns:
        ``out``, of at most 256 colours, as a repository may hold it.

    Raises:
        UserError: no browser is installed, it fails, or the picture cannot be written.
    """
    from PIL import Image

    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        raise UserError(
            "a picture of the page needs Chromium or Chrome: install one, or open the page and take it there"
        )
    # What a script asks for has come after so many milliseconds of the page's own time.
    where = (f"--virtual-time-budget={_SETTLED}", page) if isinstance(page, str) else (page.resolve().as_uri(),)
    root = ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()  # the sandbox refuses root
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "page.png"
        words = [
            browser, *_QUIET, *root, f"--user-data-dir={folder}/profile", f"--window-size={width},{height or HIGHEST}",
            f"--screenshot={drawn}", *where,
        ]  # fmt: skip
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=_SECONDS)
        except (OSError, subprocess.SubprocessError) as error:
            raise UserError(f"{browser} did not draw {page}: {error}") from error
        if not drawn.exists():
            raise UserError(f"{browser} did not draw {page}: {done.stderr.strip()[-500:]}")
        stream = io.BytesIO()
        with Image.open(drawn) as image:
            whole = image.convert("RGB")
            (_cropped(whole) if height is None else whole).quantize(256).save(stream, "PNG", optimize=True)
    try:
        replace_file(out, stream.getvalue())
    except OSError as error:
        raise UserError(f"cannot write {out}: {error}") from error
    return out


def _cropped(image: Image) -> Image:
    """Without the empty ground below the last thing on the page."""
    from PIL import ImageChops
    from PIL.Image import new

    ground = new("RGB", image.size, image.getpixel((0, image.height - 1)))
    box = ImageChops.difference(image, ground).getbbox()
    return image.crop((0, 0, image.width, min(image.height, (box[3] if box else image.height) + _MARGIN)))
