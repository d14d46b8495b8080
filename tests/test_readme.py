"""Every command in README.md and docs/ does what it says: training commands run, in a short form; the others exist."""

import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")
PAGES = {path: path.read_text(encoding="utf-8") for path in (PROJECT / "README.md", *(PROJECT / "docs").glob("*.md"))}
GUIDES = ("README.md", "devices.md", "grids.md", "install.md", "look-inside.md", "ray.md", "resume.md")  # for users
TEXT = "\n".join(text for path, text in PAGES.items() if path.name in GUIDES)
SCRIPTS = ("cnn_cifar10", "rnn_mnist")

# Appended to a command of the README, so that it trains in a moment: later flags win.
SHORT = ("--data", "synthetic", "--epochs", "1", "--device", "cpu", "--threads", "1")


def shell_commands(text: str) -> list[list[str]]:
    """The words of every command in the ```sh blocks, comments dropped, continued lines joined, each once."""
    commands = []
    for block in re.findall(r"^```sh\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words not in commands:
                commands.append(words)
    return commands


def inline_commands(text: str) -> list[list[str]]:
    """The words of every `python …` within the prose and the tables."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [shlex.split(command) for command in dict.fromkeys(re.findall(r"`(python [^`]+)`", prose))]


def script_of(words: list[str]) -> str | None:
    """The script of ours that a command starts, if it does, by itself or on several ranks."""
    place = {"python": 1, "torchrun": 2}.get(words[0])
    script = words[place].removesuffix(".py") if place else None
    return script if script in SCRIPTS else None


def flags_of(words: list[str]) -> list[str]:
    """The flags that a command gives to the script; what follows `torchrun` first is torchrun's."""
    return words[3 if words[0] == "torchrun" else 2 :]


COMMANDS = shell_commands(TEXT)
TRAININGS = [words for words in COMMANDS if script_of(words)]
OTHERS = [words for words in COMMANDS + inline_commands(TEXT) if not script_of(words)]


def test_commands_are_found_in_every_form() -> None:
    block = "```sh\nmake demo  # a comment\npython cnn_cifar10.py \\\n  --lr 1\n```\n"
    text = f"{block}\nSee `python rnn_mnist.py\n--seed 1`, not `this`.\n"
    assert shell_commands(text) == [["make", "demo"], ["python", "cnn_cifar10.py", "--lr", "1"]]
    assert inline_commands(text) == [["python", "rnn_mnist.py", "--seed", "1"]]
    assert {script_of(words) for words in TRAININGS} == set(SCRIPTS)


@pytest.mark.parametrize("words", TRAININGS, ids=" ".join)
@pytest.mark.usefixtures("tiny_synthetic", "quick_figures")
def test_training_command_runs(words: list[str], run_main: Callable, read_flags: Callable, in_project: Path) -> None:
    script, typed = script_of(words), flags_of(words)  # of several ranks, one does here
    read_flags(script, *typed)  # as it stands, no flag of it is refused
    typed = [word for word in typed if word != "--compile"]  # takes a C++ compiler and long; test_loop.py has it
    code, out, err = run_main(script, *typed, *SHORT, "--runs-dir", in_project / "runs")
    assert (code, err) == (0, "") or (code == 0 and err.startswith("warning: this CPU "))
    assert "epoch 1/1 " in out
    assert len(list(in_project.glob("runs/*_synthetic/*/metrics.csv"))) == ("--dry-run" not in typed)


def test_commands_in_the_prose_have_only_flags_that_exist(read_flags: Callable) -> None:
    for words in inline_commands(TEXT):
        if script_of(words):
            read_flags(script_of(words), *flags_of(words))


def test_flags_named_in_the_prose_exist(capsys: pytest.CaptureFixture[str]) -> None:
    known = {"--max-restarts", "--local-addr"}  # torchrun's own
    for script in (*SCRIPTS, "visualize", "report"):
        with pytest.raises(SystemExit):
            importlib.import_module(script).main(["--help"])
        known |= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    for option in re.findall(r"`(--[a-z-]+)", TEXT):
        assert option in known, option


@pytest.mark.parametrize("words", OTHERS, ids=" ".join)
def test_other_command_names_what_exists(words: list[str]) -> None:
    match words:
        case ["make", target]:
            assert re.search(rf"^{re.escape(target)}:", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE)
        case ["pip", "install", "-r", file] | ["python", "-m", "pip", "install", "-r", file]:
            assert (PROJECT / file).is_file()
        case ["python", "-m", module, *_] if not module.startswith(("venv", "pytest", "pip")):
            assert (PROJECT / f"{module.replace('.', '/')}.py").is_file()
        case ["python", file, *_] if file.endswith(".py"):
            assert (PROJECT / file).is_file()
        case ["cp", file, _]:
            assert (PROJECT / file).is_file()
        case ["python3", "-m", "venv", ".venv"] | ["source", ".venv/bin/activate"] | ["pytest" | "git" | "cd", *_]:
            pass
        case (
            ["ray", "start" | "stop", *_] | ["ray", "get-auth-token", "--generate"] | ["export", "RAY_AUTH_MODE=token"]
        ):
            pass
        case ["python", "-m", "pytest", *_] | ["tensorboard", "--logdir", "runs" | "runs/seeds" | "demo"]:
            pass
        case _:
            pytest.fail(f"no test knows the command {' '.join(words)!r}; add it here or to the scripts")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", PAGES[page]):
        assert (page.parent / target).exists(), target


def example(language: str) -> str:
    return re.search(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)[1]


def test_example_of_a_grid_is_one(in_project: Path) -> None:
    from harness.grid.rows import load_grid

    Path("short.toml").write_text(example("toml"))
    rows, _ = load_grid(Path("short.toml"))
    assert [row.name for row in rows] == ["gru-64", "lstm-64"]


@pytest.mark.usefixtures("quick_figures")
def test_example_of_ones_own_network_and_data_trains_and_resumes(
    run_main: Callable, in_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import models

    monkeypatch.setattr(models, "NETWORKS", dict(models.NETWORKS))
    monkeypatch.syspath_prepend(in_project)
    Path("own_example.py").write_text(example("python"))
    flags = ("--threads", "1", "--device", "cpu", "--name", "run")
    for epochs, more in ((1, ()), (2, ("--resume",))):
        code, out, err = run_main("own_example", *flags, "--epochs", epochs, *more)
        assert (code, err) == (0, "") and f"epoch {epochs}/{epochs} " in out
