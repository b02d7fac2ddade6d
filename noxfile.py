"""The sessions of ductape: `nox -l` lists them, bare `nox` runs lint, types, docs, build, api, dependencies and tests.

uv makes environments where it is there, virtualenv and pip where it is not.
"""

import os
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import nox
from nox.command import CommandFailed

sys.path.insert(0, str(Path(__file__).resolve().parent))
import nox_support as support

ROOT = support.ROOT
WORKERS = 5

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "types", "docs", "build", "api", "dependencies", "tests"]


@nox.session(venv_backend="none")
def demo(session: nox.Session) -> None:
    """Shows the main job on the embedded broker: nothing to install, no server; on Redis too where it is given."""
    folders = [ROOT / "core", ROOT / "adapters" / "memory", ROOT / "adapters" / "sqlite"]
    if os.environ.get("DUCTAPE_DEMO_REDIS"):
        folders.append(ROOT / "adapters" / "redis")
    wheels = support.build_wheels(session, folders)
    target = support.environment(session, "demo", Path(sys.executable), reuse=True)
    support.install_wheels(target, wheels)
    target.run(str(ROOT / "examples" / "demo.py"), *session.posargs)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Tests installed wheels: all on the lowest Python, core and memory on the others; `-- fast` is the inner loop."""
    arguments = list(session.posargs)
    if "fast" in arguments:
        arguments.remove("fast")
        return _fast(session, arguments)
    found = {version: python for version in support.VERSIONS if (python := support.interpreter(version))}
    missing = [version for version in support.VERSIONS if version not in found]
    if not found:
        session.error(f"none of Python {', '.join(support.VERSIONS)} is here")
    lowest, *others = found
    chosen = [argument for argument in arguments if (ROOT / argument.partition("::")[0]).exists()]
    wheels = support.build_wheels(session, support.members())
    failed = []
    # A choice of files is a person at work: on the lowest interpreter only.
    for version in [] if chosen else others:
        try:
            _small(session, version, found[version], wheels, arguments)
        except CommandFailed:
            failed.append(version)
    if missing:
        lines = (f"Python {version} is not here: core and memory are not run on it" for version in missing)
        support.notice("NOT TESTED HERE", *lines)
    target = support.environment(session, f"tests-{lowest}", found[lowest])
    support.install_wheels(target, wheels, *support.group("test"))
    folders = [] if chosen else [*support.tests_of(support.members()), "tests"]
    session.log(f"whole run on Python {lowest}")
    env = _test_environment() | {"DUCTAPE_TEST_MISSING_PYTHONS": " ".join(missing)}
    # Most of a run on real servers is waiting: more workers than processors, and each keeps to its servers.
    spread = [] if chosen else ["-n", str(WORKERS), "--dist", "loadgroup"]
    target.run("-m", "pytest", *spread, *folders, *arguments, env=env)
    if failed:
        session.error(f"core and memory failed on Python {', '.join(failed)}: see above")
    return None


def _fast(session: nox.Session, arguments: list[str]) -> None:
    """The inner loop: this interpreter, no real server, one event loop, all processors, the environment kept."""
    wheels = support.build_wheels(session, support.members())
    target = support.environment(session, "tests-fast", Path(sys.executable), reuse=True)
    support.install_wheels(target, wheels, *support.group("test"))
    chosen = any((ROOT / argument.partition("::")[0]).exists() for argument in arguments)
    folders = [] if chosen else [*support.tests_of(support.members()), "tests"]
    choice = ["-m", "not broker and not slow and not soak", "--loops", "asyncio", "-n", "auto"]
    target.run("-m", "pytest", *choice, *folders, *arguments, env=_test_environment())


def _small(session: nox.Session, version: str, python: Path, wheels: list[str], arguments: list[str]) -> None:
    """Core and the memory adapter on one more interpreter, the kit beside them: an undeclared import shows here."""
    wanted = ("ductape_core-", "ductape_memory-", "ductape_conformance-")
    small = [wheel for wheel in wheels if Path(wheel).name.startswith(wanted)]
    target = support.environment(session, f"tests-{version}", python)
    support.install_wheels(target, small, *support.group("test"))
    folders = support.tests_of([ROOT / "core", ROOT / "adapters" / "memory"])
    if not folders:
        return
    session.log(f"core and memory on Python {version}")
    choice = ["-m", "not broker and not soak"]
    try:
        target.run("-m", "pytest", "-q", *choice, *folders, *arguments, env=_test_environment())
    except CommandFailed as error:
        # With `-k` of the caller nothing may match here; without, an empty run is a failure like any other.
        if not (arguments and "code 5" in str(error)):
            raise


def _test_environment() -> dict[str, str | None]:
    # `DUCTAPE_TEST_INSTALLED` lets a test insist that the sources are not imported from the checkout.
    return {"DUCTAPE_TEST_INSTALLED": "1", "PYTHONUNBUFFERED": "1"}


@nox.session
def lint(session: nox.Session) -> None:
    """Rules, format, the layers (who may import whom, how long things may be), and the lines of the changelog."""
    session.install(*support.group("lint"), *support.group("changelog"), *support.group("test"))
    failed = []
    for command in (
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "--diff", "."],
        ["python", "-m", "pytest", "-q", "tests/test_layers.py", "tests/test_changelog.py"],
        ["towncrier", "build", "--draft", "--version", "draft"],
    ):
        try:
            # The shared fixtures stand on the kit's proxy.
            session.run(*command, env={"PYTHONPATH": str(ROOT / "contrib" / "conformance" / "src")})
        except CommandFailed:
            failed.append(" ".join(command))
    if failed:
        session.error(f"failed: {'; '.join(failed)}")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy strict over every distribution, the typing tests and the shared test servers."""
    # The wheels bring what they depend on; our own sources come from the checkout, which MYPYPATH puts first.
    wheels = support.build_wheels(session, support.members())
    session.install(*support.group("types"), *support.group("test"), "nox", *wheels)
    sources = support.sources()
    extra = [path for path in (ROOT / "tests" / "typing", ROOT / "tests" / "brokers") if any(path.rglob("*.py"))]
    env = {"MYPYPATH": os.pathsep.join(map(str, sources))}
    session.run("mypy", *map(str, sources), *map(str, extra), "noxfile.py", "nox_support.py", env=env)


@nox.session
def docs(session: nox.Session) -> None:
    """Builds the documentation; a broken link is an error."""
    if not (ROOT / "mkdocs.yml").exists() and not (ROOT / "zensical.toml").exists():
        session.skip("there is no documentation yet: neither mkdocs.yml nor zensical.toml")
    session.install(*support.group("docs"))
    env = {"PYTHONPATH": os.pathsep.join(map(str, support.sources()))}
    session.run("zensical", "build", "--strict", "--clean", *session.posargs, env=env)


@nox.session
def changelog(session: nox.Session) -> None:
    """Makes this version's section of CHANGELOG.md of the files of `changelog.d`; `-- --draft` only shows it."""
    session.install(*support.group("changelog"))
    session.run("towncrier", "build", "--version", _version(), *session.posargs)


@nox.session
def api(session: nox.Session) -> None:
    """Compares what is public with the last release, or the git ref after `--`; a break needs a version that may."""
    ref = session.posargs[0] if session.posargs else support.last_release()
    if ref is None:
        text = "there is no release (no tag v*) to compare with; `nox -s api -- REF` compares with another ref"
        support.notice("THE API WAS NOT COMPARED", text)
        return
    session.install(*support.group("api"))
    found = str(session.run("python", "-m", "tests.api", ref, silent=True, success_codes=[0, 3])).strip()
    before = str(session.run("git", "show", f"{ref}:VERSION", external=True, silent=True)).strip()
    if not found:
        session.log(f"nothing that was public in {ref} is gone or changed")
    elif support.series(before) == support.series(_version()):
        session.error(f"{_version()} breaks users of {before} ({ref}):\n{found}")
    else:
        support.notice(f"{_version()} MAY BREAK USERS OF {before}, AND DOES", *found.splitlines())


def _version() -> str:
    return (ROOT / "VERSION").read_text().strip()


@nox.session
def build(session: nox.Session) -> None:
    """Builds what would be released, wheels out of sdists, twice, and looks into it."""
    session.install(*support.group("build"))
    into, again = ROOT / "dist", session.cache_dir.resolve() / "again"
    for folder in (into, again):
        shutil.rmtree(folder, ignore_errors=True)
    for member in support.members():
        for folder in (into, again):
            session.run("python", "-m", "build", "--no-isolation", "--outdir", str(folder), str(member), silent=True)
    made = sorted(into.iterdir())
    wheels = [str(file) for file in made if file.suffix == ".whl"]
    session.run("twine", "check", "--strict", *map(str, made))
    session.run("check-wheel-contents", *wheels)
    problems = [problem for file in made for problem in _problems(file, _version())]
    unlike = [file.name for file in made if file.read_bytes() != (again / file.name).read_bytes()]
    problems += [f"{name} is another when it is built again" for name in unlike]
    if len(made) != 2 * len(support.members()):
        problems.append(f"{len(made)} files for {len(support.members())} distributions")
    if problems:
        session.error("; ".join(problems))
    session.log(f"{len(made)} files in {into.relative_to(ROOT)}, all in order, and the same when built again")


def _problems(file: Path, version: str) -> list[str]:
    """Says what a wheel or sdist lacks or should not contain."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    else:
        with tarfile.open(file) as packed:
            names = packed.getnames()
    problems = [] if f"-{version}" in file.name else [f"{file.name} is not of version {version}"]
    lacking = {"py.typed", "LICENSE"} - {Path(name).name for name in names}
    problems += [f"{file.name} has no {wanted}" for wanted in sorted(lacking)]
    # What `ductape new-adapter` begins with brings its tests along.
    own = [name for name in names if "/template/" not in name]
    unwanted = [name for name in own if "/tests/" in name or Path(name).name.startswith(("test_", "conftest"))]
    return problems + [f"{file.name} contains {name}" for name in unwanted]


# What deptry cannot know: extras that are only there to be installed, libraries that a client loads by itself, and a
# plugin that only pytest imports.
UNSEEN = "DEP002=uvloop|cramjam|nkeys,DEP003=pytest"


@nox.session(venv_backend="none")
def dependencies(session: nox.Session) -> None:
    """Every distribution declares what it imports and no more, and works with the lowest versions that it allows."""
    wheels = support.build_wheels(session, support.members())
    newest = support.environment(session, "deptry", Path(sys.executable), reuse=True)
    support.install_wheels(newest, wheels, *support.group("dependencies"))
    names = ",".join(f"{name}={module}" for name, module in support.modules().items())
    for folder in support.members():
        with session.chdir(folder):
            newest.run("-m", "deptry", "src", "--package-module-name-map", names, "--per-rule-ignores", UNSEEN)
    if not shutil.which("uv"):
        support.notice("NOT TESTED HERE", "the lowest versions: only uv resolves them; pip install uv")
        return
    lowest = support.environment(session, "lowest", Path(sys.executable))
    lowest.install("--resolution", "lowest-direct", *wheels)
    lowest.install(*support.group("test"))
    folders = support.tests_of(support.members())
    choice = ["-q", "-m", "not broker and not slow and not soak", "--loops", "asyncio", "-n", "auto"]
    lowest.run("-m", "pytest", *choice, *folders, env=_test_environment())


@nox.session(venv_backend="none")
def bench(session: nox.Session) -> None:
    """Measures the hot path: `python -m benchmarks`, arguments after `--`."""
    _installed(session, "bench", "benchmarks")


@nox.session(venv_backend="none")
def soak(session: nox.Session) -> None:
    """Runs for as long as asked: `python -m tests.soak`, arguments after `--`."""
    _installed(session, "soak", "tests.soak")


def _installed(session: nox.Session, name: str, module: str) -> None:
    """Runs a module of the checkout against installed wheels of all distributions."""
    wheels = support.build_wheels(session, support.members())
    target = support.environment(session, name, Path(sys.executable), reuse=True)
    support.install_wheels(target, wheels, *support.group("test"), *support.group("bench"))
    target.run("-m", module, *session.posargs)


@nox.session(venv_backend="none")
def brokers(session: nox.Session) -> None:
    """Starts the real servers and prints their addresses until interrupted; names after `--` choose."""
    _installed(session, "brokers", "tests.brokers")
