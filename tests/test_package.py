"""The package as people install it: its metadata agree with one another, and the wheel works away from the checkout."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

import recsys
from recsys.base.package import DISTRIBUTION, PYTHONS

ROOT = Path(recsys.__file__).resolve().parent
CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, SETUPTOOLS = CONFIGURATION["project"], CONFIGURATION["tool"]["setuptools"]
TRACES = ("build", "dist", "runs", "__pycache__")
TINY = ("--users", "60", "--items", "50", "--sessions", "200")
IMPORTED = """
import sys
from recsys.cli.main import main
assert main(sys.argv[1:]) == 0
files = [module.__file__ for name, module in sys.modules.items() if name.split(".")[0] == "recsys" and module.__file__]
print("FILES", *files, sep="\\n")
"""


def test_name_pythons_and_version_are_said_the_same_everywhere() -> None:
    assert PROJECT["name"] == DISTRIBUTION
    named = [line.rpartition(" :: ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert tuple(named) == PYTHONS
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"\(3, (\d+)\)", makefile) == [version.partition(".")[2] for version in PYTHONS]
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    assert f"python: [{', '.join(repr(version) for version in PYTHONS)}]".replace("'", '"') in workflow
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_hint_tells_people_to_install_the_package_of_strangers() -> None:
    """`recsys` is another project's name on the package index."""
    texts = [*ROOT.rglob("*.py"), *ROOT.rglob("*.md"), *ROOT.rglob("*.toml")]
    ours = [file for file in texts if not any(part.startswith(".") for part in file.relative_to(ROOT).parts)]
    wrong = re.compile(r"pip install (?:-\S+ )*['\"]?recsys(?![-\w])|['\"]recsys\[\w+\]")
    allowed = {ROOT / "base" / "package.py", Path(__file__).resolve()}  # they say what not to say
    assert [str(file) for file in ours if file not in allowed and wrong.search(file.read_text(encoding="utf-8"))] == []


def test_faiss_is_an_extra_and_none_that_replaces_it_is() -> None:
    faiss = {
        extra: [need for need in needs if "faiss" in need] for extra, needs in PROJECT["optional-dependencies"].items()
    }
    assert [needs[0].split(">")[0] for extra, needs in faiss.items() if needs] == ["faiss-cpu"]
    assert not any("faiss" in need or "polars" in need or "matplotlib" in need for need in PROJECT["dependencies"])


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the source archive and the wheel made from it; a copy is built, so that the checkout stays clean."""
    work, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    copy = work / "checkout"
    shutil.copytree(ROOT, copy, ignore=lambda _, names: [n for n in names if n in TRACES or n.startswith(".")])
    shutil.copy(ROOT / ".pre-commit-config.yaml", copy)
    _build("sdist", copy, out)
    [archive] = out.glob("*.tar.gz")
    shutil.unpack_archive(archive, work / "unpacked", filter="data")
    [source] = (work / "unpacked").iterdir()
    _build("wheel", source, out)
    return out


def _build(kind: str, source: Path, out: Path) -> None:
    """Call the build backend as pip and build do."""
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(out)], check=True, capture_output=True, cwd=source)


@pytest.mark.slow
def test_the_wheel_holds_the_library_and_nothing_else(dist: Path) -> None:
    [wheel] = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    info = f"recsys_funnel-{PROJECT['version']}.dist-info"
    assert f"{info}/licenses/LICENSE" in names
    assert {"recsys/py.typed", "recsys/configs/movielens-1m.toml"} <= set(names)
    rooms = {package.replace(".", "/") for package in SETUPTOOLS["packages"]}
    library = {name for name in names if not name.startswith(info)}
    modules = {name for name in library if name.endswith(".py")}
    assert {name.rpartition("/")[0] for name in modules} == rooms
    data = [
        f"{package.replace('.', '/')}/{pattern}"
        for package, patterns in SETUPTOOLS["package-data"].items()
        for pattern in patterns
    ]
    assert [name for name in library - modules if not any(fnmatch.fnmatch(name, pattern) for pattern in data)] == []
    assert not any("document_config" in name for name in names)


@pytest.mark.slow
def test_the_source_archive_holds_what_builds_and_tests_it(dist: Path, tmp_path: Path) -> None:
    [archive] = dist.glob("*.tar.gz")
    shutil.unpack_archive(archive, tmp_path, filter="data")
    [folder] = tmp_path.iterdir()
    unpacked = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    checkout = {
        str(file.relative_to(ROOT)) for room in ("tests", "cli", "configs") for file in (ROOT / room).rglob("*")
    }
    assert {name for name in checkout if name.endswith((".py", ".toml"))} <= unpacked
    assert {"LICENSE", "Makefile", "constraints.txt", "docs/document_config.py", "CHANGELOG.md"} <= unpacked
    assert not any(name.startswith(("docs/results/", "runs/", ".")) and name[1:4] != "pre" for name in unpacked)


@pytest.mark.slow
def test_the_wheel_works_in_a_fresh_environment_from_another_folder(dist: Path, tmp_path: Path) -> None:
    home, here = tmp_path / "environment", tmp_path / "folder"
    here.mkdir()
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(home), "platbase": str(home)}))
    [wheel] = dist.glob("*.whl")
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | {
        "OMP_NUM_THREADS": "1"
    }

    def run(program: str, *arguments: str) -> str:
        command = [str(scripts / program), *arguments]
        finished = subprocess.run(command, capture_output=True, text=True, cwd=here, env=clean, check=False)
        assert finished.returncode == 0, finished.stderr[-2000:]
        return finished.stdout

    run("python", *install)
    # What the wheel requires is borrowed from the present environment; its own installation of the library is shadowed.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    assert run("recsys", "--version") == f"recsys {PROJECT['version']}\n"
    assert "mmoe" in run("recsys", "models")
    out = run("python", "-c", IMPORTED, "demo", *TINY)
    assert (here / "runs" / "demo" / "manifest.json").is_file()
    assert (here / "runs" / "demo.html").is_file()
    files = [Path(line) for line in out.partition("FILES\n")[2].splitlines()]
    assert len(files) > 100
    assert [str(file) for file in files if not file.is_relative_to(site)] == []
