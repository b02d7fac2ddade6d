"""Java servers out of Maven artifacts: resolved once by Maven, kept in the user's cache, run by the system's Java."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.brokers.server import Unavailable, apt_install

_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion><groupId>ductape</groupId><artifactId>jars</artifactId><version>1</version>
<dependencies>{}</dependencies></project>
"""
_DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"


def java() -> str:
    """Finds Java, else installs it as root by apt.

    Raises:
        Unavailable: It cannot be had here.
    """
    return _program("java", "default-jre-headless")


def jars(*coordinates: str) -> Path:
    """Returns a folder with these artifacts and all that they need; for `java -cp 'FOLDER/*'`.

    Args:
        coordinates: `group:artifact:version` each.

    Raises:
        Unavailable: There is no Maven, or it cannot resolve them.
    """
    name = hashlib.sha256(" ".join(coordinates).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ductape-tests"
    folder = cache / f"jars-{name}"
    if not folder.is_dir():
        maven = _program("mvn", "maven")
        cache.mkdir(parents=True, exist_ok=True)
        # Into a folder beside it, then renamed: several test processes may do this at the same moment.
        made = Path(tempfile.mkdtemp(prefix="jars-", dir=cache))
        try:
            _resolve(maven, coordinates, made)
            (made / "pom.xml").unlink()
            made.replace(folder)
        except OSError:
            if not folder.is_dir():
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return folder


def _resolve(maven: str, coordinates: Sequence[str], into: Path) -> None:
    pom = into / "pom.xml"
    pom.write_text(_POM.format("".join(_DEPENDENCY.format(*each.split(":")) for each in coordinates)))
    command = [maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={into}"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=into, timeout=300
    )
    if done.returncode:
        raise Unavailable(f"Maven cannot resolve {', '.join(coordinates)}: {done.stdout[-300:].strip()}")


def _program(name: str, package: str) -> str:
    if found := shutil.which(name):
        return found
    refused = apt_install(package)
    found = shutil.which(name)
    if found is None:
        raise Unavailable(f"no {name} on PATH; {refused or 'the package brought none'}. Install {package}")
    return found
