"""Says in one line which versions fit when a library cannot be imported beside the installed torch."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires, version

from foundation.errors import UserError


def installed(package: str) -> str | None:
    """Version of an installed package, None when there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def torch_for_torchvision() -> str | None:
    """What the installed torchvision asks for, from its own metadata: ``==2.10.0`` or ``>=2.14.0``."""
    if installed("torchvision") is None:
        return None
    for requirement in requires("torchvision") or []:
        found = re.match(r"torch\s*\(?\s*((?:[=<>!~]=?|===)[^;)]*)", requirement)
        if found:
            return found[1].replace(" ", "")
    return None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0])[:3])


def _fits(found: str, wanted: str) -> bool:
    """Whether a version meets ``==2.10.0`` or ``>=2.14.0,<3``; anything rarer counts as met."""
    for operator, number in re.findall(r"(==|>=|<)([\w.]+)", wanted):
        have, want = _numbers(found), _numbers(number)
        if not {"==": have == want, ">=": have >= want, "<": have < want}[operator]:
            return False
    return True


def explain_import_error(package: str, error: BaseException) -> UserError:
    """What to tell a user when ``torchvision`` or ``timm`` (which imports torchvision) cannot be imported.

    Args:
        package: the package that was to be imported.
        error: what the import raised.

    Returns:
        An error that names the installed versions and the pair that fits.
    """
    found = installed(package)
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if found is None:
        return UserError(f"{package} is not installed ({reason}); install it: pip install {package}")
    torch, vision, wanted = installed("torch"), installed("torchvision"), torch_for_torchvision()
    start = f"{package} {found} cannot be imported with torch {torch} ({reason})"
    if vision is None:
        return UserError(f"{start}: it needs torchvision, which is not installed: pip install torchvision")
    if torch is None or wanted is None:
        return UserError(f"{start}: install a torch and a torchvision that were released together")
    pair = f"pip install 'torch{wanted}' torchvision=={vision.split('+')[0]}"
    if not _fits(torch, wanted):
        return UserError(f"{start}: torchvision {vision} was built for torch {wanted}; a pair that fits: {pair}")
    return UserError(
        f"{start}: the versions of torch {torch} and torchvision {vision} fit, so the two were probably built for "
        f"different devices (CPU, CUDA); install both from the same place: {pair} --force-reinstall"
    )
