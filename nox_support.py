"""What the sessions of noxfile.py stand on: members, interpreters, environments and wheels.

Everything works with plain tools (virtualenv, which nox brings, and pip); uv is used where it is there, being quicker.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
# The lowest runs everything, the others core and the memory adapter.
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")


def group(name: str) -> list[str]:
    """Returns the requirements of a dependency group of the root pyproject.toml."""
    return list(nox.project.dependency_groups(PROJECT, name))


def members() -> list[Path]:
    """Returns the folders of all distributions, core first; a new one needs no line here."""
    found = [ROOT / "core", *sorted(ROOT.glob("adapters/*")), *sorted(ROOT.glob("contrib/*"))]
    return [folder for folder in found if (folder / "pyproject.toml").is_file()]


def sources() -> list[Path]:
    """Returns the `src` folders that hold modules."""
    return [folder / "src" for folder in members() if any((folder / "src").rglob("*.py"))]


def modules() -> dict[str, str]:
    """Returns the module of every distribution by its name."""
    named = {folder: nox.project.load_toml(folder / "pyproject.toml")["project"]["name"] for folder in members()}
    return {name: next((folder / "src").glob("*/py.typed")).parent.name for folder, name in named.items()}


def tests_of(folders: Iterable[Path]) -> list[str]:
    """Returns their `tests` folders, relative to the root, where there are any."""
    return [str((folder / "tests").relative_to(ROOT)) for folder in folders if (folder / "tests").is_dir()]


def notice(*lines: str) -> None:
    """Prints a box that nobody overlooks."""
    rule = "#" * max(60, *(len(line) + 6 for line in lines))
    print("\n".join(["", rule, *(f"#  {line}" for line in lines), rule, ""]), flush=True)


def last_release() -> str | None:
    """Returns the newest tag `v*` that this commit descends from, if there is any."""
    ask = ["git", "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*"]
    try:
        done = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def series(version: str) -> str:
    """Returns the part of a version that users may rely on: `1`, and `0.3` before the first stable one."""
    major, minor = version.split(".")[:2]
    return major if major != "0" else f"0.{minor}"


# ---------------------------------------------------------------- interpreters


def interpreter(version: str) -> Path | None:
    """Finds an interpreter of this version; never downloads one.

    A file of the right name is not enough (a version manager's shim is there for versions that are not selected): each
    candidate is asked.
    """
    for candidate in _candidates(version):
        if _answers(candidate, version):
            return candidate
    return None


def _candidates(version: str) -> Iterable[Path]:
    if f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        yield Path(sys.executable)
    if named := shutil.which(f"python{version}"):
        yield Path(named)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    exact = re.compile(re.escape(version) + r"\.(\d+)")
    patches = [(int(match[1]), folder) for folder in pyenv.glob("*") if (match := exact.fullmatch(folder.name))]
    for _, folder in sorted(patches, reverse=True):
        yield folder / "bin" / "python"
    if uv := shutil.which("uv"):
        find = [uv, "python", "find", "--offline", "--no-python-downloads", "--no-project", version]
        done = subprocess.run(find, capture_output=True, text=True, check=False, cwd=ROOT)
        if done.returncode == 0:
            yield Path(done.stdout.strip())
    if sys.platform == "win32" and (launcher := shutil.which("py")):
        ask = [launcher, f"-{version}", "-c", "import sys; print(sys.executable)"]
        done = subprocess.run(ask, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            yield Path(done.stdout.strip())


def _answers(candidate: Path, version: str) -> bool:
    ask = [str(candidate), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        done = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.strip() == version


# ---------------------------------------------------------------- environments


@dataclass(frozen=True)
class Environment:
    """A virtual environment of our own, beside those that nox makes: one session needs several interpreters."""

    session: nox.Session
    python: Path

    def install(self, *arguments: str) -> None:
        """Installs with uv where it is there, else with pip."""
        if uv := shutil.which("uv"):
            command = [uv, "pip", "install", "--quiet", "--python", str(self.python)]
        else:
            command = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        self.session.run(*command, *arguments, external=True, silent=True)

    def run(self, *arguments: str, env: dict[str, str | None] | None = None) -> None:
        """Runs the environment's interpreter; a status other than 0 ends the session."""
        # Nothing but what is installed: a PYTHONPATH would let sources in by the back door.
        self.session.run(str(self.python), *arguments, external=True, env={"PYTHONPATH": None} | (env or {}))


def environment(session: nox.Session, name: str, base: Path, *, reuse: bool = False) -> Environment:
    """Makes a virtual environment under `.nox`, or where `--envdir` says.

    Args:
        session: The session it serves.
        name: The folder's name.
        base: The interpreter it is made from.
        reuse: Whether one that is there and works is taken as it is.
    """
    # Beside the environments that nox makes, wherever `--envdir` puts them.
    folder = session.cache_dir.parent.resolve() / name
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not (reuse and _works(python)):
        shutil.rmtree(folder, ignore_errors=True)
        if uv := shutil.which("uv"):
            make = [uv, "venv", "--quiet", "--no-project", "--no-python-downloads", "--python", str(base), str(folder)]
        else:
            make = [sys.executable, "-m", "virtualenv", "--quiet", "--python", str(base), str(folder)]
        session.run(*make, external=True, silent=True)
    return Environment(session, python)


def _works(python: Path) -> bool:
    # One that uv made has no pip, and uv may be gone since.
    needed = "" if shutil.which("uv") else "import pip"
    try:
        return subprocess.run([str(python), "-c", needed], check=False, capture_output=True).returncode == 0
    except OSError:
        return False


# ---------------------------------------------------------------- wheels


def build_wheels(session: nox.Session, folders: Sequence[Path]) -> list[str]:
    """Builds a wheel of every folder with hatchling alone, in seconds and without isolation.

    Args:
        session: The session that needs them; they lie in the cache, under its name.
        folders: The distributions.

    Returns:
        Paths of the wheels.
    """
    builder = environment(session, "builder", Path(sys.executable), reuse=True)
    builder.install("hatchling>=1.27")
    into = session.cache_dir.resolve() / f"wheels-{session.name}"
    shutil.rmtree(into, ignore_errors=True)
    for folder in folders:
        with session.chdir(folder):
            session.run(
                str(builder.python),
                "-m",
                "hatchling",
                "build",
                "-t",
                "wheel",
                "-d",
                str(into),
                external=True,
                silent=True,
            )
    return sorted(str(wheel) for wheel in into.glob("*.whl"))


def install_wheels(target: Environment, wheels: Sequence[str], *requirements: str) -> None:
    """Installs wheels as files, so that no package of the same name on an index can take their place.

    Args:
        target: Where to.
        wheels: Files; in an environment that is reused they replace what was installed of the same version.
        requirements: What else is needed.
    """
    target.install(*requirements, *wheels)
    target.install("--force-reinstall", "--no-deps", *wheels)
