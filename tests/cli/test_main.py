"""The command ``faceflax`` as users start it."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import faceflax
from faceflax.cli import main, plugins
from faceflax.errors import FaceflaxError

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"jax", "flax", "cv2", "matplotlib", "scipy", "tensorflow_datasets", "optax", "orbax", "sklearn"}
OWN = [name for name, each in main.COMMANDS.items() if each.module is not None]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the metadata of an installation: what pip writes of pyproject.toml's entry points."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    folder = tmp_path_factory.mktemp("site") / "faceflax-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: faceflax\nVersion: 0.1.0\n")
    groups = project["entry-points"] | {"console_scripts": project["scripts"]}
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups.items()]
    (folder / "entry_points.txt").write_text("\n".join(lines))
    return folder.parent


def start(*arguments, first=(), **environment):
    path = os.pathsep.join(map(str, (*first, ROOT)))
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path, "COLUMNS": "80"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_lists_every_command_with_a_line(installed):
    done = start("-m", "faceflax", "--help")
    assert done.returncode == 0, done.stderr
    for name in main.COMMANDS:
        assert f"\n  {name} " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize("name", ["", *main.COMMANDS])
def test_help_imports_nothing_heavy_and_no_other_command(installed, name):
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print(sorted(sys.modules)))\n"
        "from faceflax.cli.main import main\n"
        f"main({[name, '--help'] if name else ['--help']})"
    )
    done = start("-c", code, first=[installed])
    assert done.returncode == 0, done.stderr
    shown, modules = done.stdout.rsplit("\n", 2)[:2]
    loaded = set(ast.literal_eval(modules))
    assert not {module.partition(".")[0] for module in loaded} & HEAVY
    others = {each.module for other, each in main.COMMANDS.items() if other != name} - {None}
    assert not loaded & others
    assert f"usage: faceflax {name}".strip() in shown
    for ugly in ("STR", "{None}", "INT"):
        assert ugly not in shown.split()
    assert max(map(len, shown.splitlines())) <= 80


def test_version():
    done = start("-m", "faceflax", "--version")
    assert done.stdout == f"faceflax {faceflax.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evalute"], "error: COMMAND: unknown 'evalute'; did you mean evaluate?\n"),
        (["prepare_data"], "error: COMMAND: unknown 'prepare_data'; did you mean prepare-data?\n"),
        (["xyzzy"], f"error: COMMAND: unknown 'xyzzy'; choose one of: {', '.join(main.COMMANDS)}\n"),
        (["--source", "demo"], "error: --source: an option has to follow a command; faceflax --help lists them\n"),
    ],
)
def test_no_command(arguments, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main.main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", said)


def test_nothing_shows_the_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main.main([])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("usage: faceflax COMMAND")


def test_bad_input_of_a_command():
    done = start("-m", "faceflax", "train", "--epochs", "0")
    assert (done.returncode, done.stderr) == (2, "error: --epochs: 0 is too small; give 1 or more\n")


def test_a_command_without_its_extra(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('tensorflow_datasets', 'array_record', 'orbax', 'sklearn', 'h5py'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
    )
    arguments = [
        "evaluate",
        "--weights",
        "mini_xception-fer2013",
        "--dataset",
        "fer2013",
        "--output",
        tmp_path / "a.png",
    ]
    done = start("-m", "faceflax", *arguments, first=[tmp_path])
    assert done.returncode == 2
    assert done.stderr == "error: this command needs the extra \"train\": pip install 'faceflax[train]'\n"


def test_completion_knows_commands_and_options(installed, tmp_path):
    bash = shutil.which("bash")
    script = tmp_path / "faceflax.bash"
    done = start("-m", "faceflax", "--tyro-write-completion", "bash", script, first=[installed])
    assert done.returncode == 0, done.stderr
    text = script.read_text()
    assert all(name in text for name in main.COMMANDS)
    assert all(option in text for option in ("--emotion-weights", "--learning-rate", "--method"))
    if bash:
        subprocess.run([bash, "-n", script], check=True)


@pytest.mark.parametrize("name", OWN)
def test_scripts_are_the_commands(name):
    shim = ROOT / "scripts" / f"{name.replace('-', '_')}.py"
    if name == "info":
        assert not shim.exists()
        return
    assert len(shim.read_text().splitlines()) <= 12
    done = start(shim, "--help")
    assert done.returncode == 0, done.stderr
    usage = " ".join(done.stdout.split())  # a long path makes the line wrap
    assert usage.startswith(f"usage: {shim} [-h] ")


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """Makes a package for Python to find in place of one of ours."""

    def make(name, text):
        (tmp_path / name).mkdir()
        if text is not None:
            (tmp_path / name / "__init__.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)

    return make


def test_a_package_of_ours_is_known_by_its_mark(beside):
    assert plugins.shadowed("interpret") is None
    beside("other_one", "__version__ = '1'")
    assert "other_one/__init__.py' is not faceflax's; InterpretML" in str(plugins.shadowed("other_one"))
    assert "is missing" in str(plugins.shadowed("no_such_package_at_all"))


def test_a_package_that_lost_its_init(beside):
    beside("hollow", None)
    assert "has lost its __init__.py" in str(plugins.shadowed("hollow"))


def copy_interpret(folder):
    """A copy of our package that a process finds before the clone's, whose editable installation comes first."""
    shutil.copytree(ROOT / "interpret", folder / "interpret", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "sys.meta_path[:] = [each for each in sys.meta_path if not type(each).__name__.startswith('ScikitBuild')]\n"
    )


def test_interpretml_in_place_of_our_package_is_noticed(installed, tmp_path):
    """As pip leaves it when InterpretML is installed after faceflax: its __init__ in our folder."""
    copy_interpret(tmp_path)
    (tmp_path / "interpret/__init__.py").write_text("__version__ = '0.7.8'\n")
    first = [tmp_path, installed]
    environment = {"PYTHONSAFEPATH": "1"}  # else the clone, being the current folder, comes first
    for arguments in (["-m", "faceflax", "saliency", "--samples", 0], ["-m", "interpret.saliency", "--samples", 0]):
        done = start(*arguments, first=first, **environment)
        assert done.returncode == 2
        assert done.stderr.startswith("error: interpret: '")
        assert "pip uninstall interpret interpret-core" in done.stderr
    code = "from faceflax.cli import explainer; explainer(None, None)"
    assert "is not faceflax's" in start("-c", code, first=first, **environment).stderr


def test_interpretml_beneath_our_package(tmp_path):
    copy_interpret(tmp_path)
    (tmp_path / "interpret/glassbox").mkdir()
    code = "import interpret; print(interpret.METHODS is not None)"
    done = start("-c", code, first=[tmp_path], PYTHONSAFEPATH="1")
    assert done.stdout == "True\n"
    assert "UserWarning: InterpretML is installed in the folder" in done.stderr
    (tmp_path / "interpret/cam.py").unlink()
    done = start("-c", code, first=[tmp_path], PYTHONSAFEPATH="1")
    assert done.stderr.splitlines()[-1].startswith("ImportError: faceflax's package interpret has lost cam.py; keep")


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr(plugins, "entry_points", lambda group: {})
    with pytest.raises(FaceflaxError, match="faceflax: is not installed"):
        plugins.explainer(None, None)
    with pytest.raises(FaceflaxError, match="faceflax: is not installed"):
        main.load("saliency")


def test_entry_points_of_others_are_not_read(installed, tmp_path, monkeypatch):
    other = tmp_path / "other-1.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (other / "entry_points.txt").write_text("[faceflax.commands]\nevil = os\n")
    monkeypatch.syspath_prepend(installed)
    monkeypatch.syspath_prepend(tmp_path)
    points = plugins.entry_points("faceflax.commands")
    assert set(points) == {"saliency", "explain-benchmark"}
    assert all(isinstance(point, EntryPoint) for point in points.values())


def test_info_as_json(tmp_path):
    done = start("-m", "faceflax", "info", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["versions"]["faceflax"] == faceflax.__version__
    assert set(found["weights"]) == set(faceflax.list_weights())
    assert all("ok" in text for text in found["weights"].values())
    assert found["cache"]["folder"] == os.environ["FACEFLAX_CACHE_DIR"]
    assert set(found) >= {"extras", "engine", "cameras", "display", "attribution"}
    assert not any("problem" in section for section in found.values())


def test_info_says_what_fails(monkeypatch, capsys):
    from faceflax.cli import info

    def broken():
        raise OSError("no such bus\nat all")

    monkeypatch.setattr(info, "SECTIONS", {"bus": broken, "extras": info.extras})
    info.main(info.Options())
    assert "bus\n  problem  OSError: no such bus at all\n" in capsys.readouterr().out
