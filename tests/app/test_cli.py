import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.app.full_report import full_report

from tokenlayer import catalog
from tokenlayer.app import api
from tokenlayer.app.cli import main
from tokenlayer.core.errors import BadOption

SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture
def run(capsys):
    """Runs a command in this process: (exit code, stdout, stderr)."""
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGHUP)}

    def go(*args):
        with pytest.raises(SystemExit) as stop:
            main([str(a) for a in args])
        return stop.value.code, *capsys.readouterr()

    yield go
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def swaps(monkeypatch):
    """Stands in for the library call; holds what it was called with."""
    calls = []

    def swap(model, tokenizer, out, **options):
        calls.append({"model": model, "tokenizer": tokenizer, "out": out, **options})
        return full_report()

    monkeypatch.setattr(api, "swap", swap)
    return calls


def python(code, *args, **options):
    env = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, env=env, **options)


def test_help_imports_nothing_heavy():
    code = """
import sys
from tokenlayer.app.cli import main
try:
    main(["--help"])
finally:
    print([m for m in ("torch", "transformers", "tokenizers", "matplotlib", "numpy", "jinja2") if m in sys.modules])
"""
    assert python(code).stdout.splitlines()[-1] == "[]"


def test_package_entries_are_imported_on_use():
    code = "import sys, tokenlayer; print('torch' in sys.modules, tokenlayer.swap.__module__, tokenlayer.__version__)"
    assert python(code).stdout.split()[:2] == ["False", "tokenlayer.app.api"]
    assert "has no attribute 'swop'" in python("import tokenlayer; tokenlayer.swop").stderr


@pytest.mark.parametrize("args", [(), ("--help",), ("-h",)])
def test_help_lists_commands_and_rooms(run, args):
    code, out, _ = run(*args)
    assert code == 0
    for word in ("swap", "doctor", "list", "report", *catalog.ROOMS):
        assert word in out


def test_version(run):
    import tokenlayer

    assert run("--version") == (0, f"tokenlayer {tokenlayer.__version__}\n", "")


def test_room_without_a_command_shows_its_help(run):
    code, out, err = run("transfer")
    assert code == 2
    assert "swap" in out
    assert err == ""


def test_swap_is_the_same_command_in_its_room(run, swaps):
    flags = ("M", "T", "--out", "O", "--eval", "a:tr", "--eval", "b", "--seed", "3", "--dry-run", "--quiet")
    assert run("swap", *flags)[0] == 0
    assert run("transfer", "swap", *flags)[0] == 0
    assert swaps[0] == swaps[1]
    assert (swaps[0]["eval"], swaps[0]["seed"], swaps[0]["dry_run"]) == (["a:tr", "b"], 3, True)
    assert (swaps[0]["init"], swaps[0]["eval_bytes"], swaps[0]["device"]) == ("pieces", 20_000, "cpu")


def test_json_is_the_report_and_nothing_else(run, swaps):
    code, out, err = run("swap", "M", "T", "--out", "O", "--json")
    assert code == 0
    assert json.loads(out)["metrics"][0]["value"] == 1.9027
    assert "warning: 268 tokens" in err
    assert swaps[0]["quiet"]


def test_results_on_stdout_and_prose_on_stderr(run, swaps):
    _, out, err = run("swap", "M", "T", "--out", "O")
    assert "bits per byte" in out
    assert "warning" not in out
    assert err.splitlines()[-1] == "next: tokenlayer doctor smol-tr"
    _, _, err = run("swap", "M", "T", "--out", "O", "--quiet")
    assert err.splitlines() == ["warning: 268 tokens have no spelling in the source; their rows are the mean row"]


def test_flags_win_over_the_config_file(run, swaps, tmp_path):
    file = tmp_path / "swap.toml"
    file.write_text(
        'model = "M"\ntokenizer = "T"\nout = "O"\neval = ["a", "b:en"]\neval_bytes = 5\ndry-run = true\nseed = 1\n'
    )
    code, _, err = run("swap", "--config", file, "--seed", "9")
    assert code == 0, err
    found = swaps[0]
    assert (found["model"], found["tokenizer"], found["out"]) == ("M", "T", Path("O"))
    assert (found["eval"], found["eval_bytes"], found["dry_run"], found["seed"]) == (["a", "b:en"], 5, True, 9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed = 1", "error: a key of {file} is 'sed', expected one of:"),
        ("seed = ", "error: cannot read --config {file}:"),
        ('seed = "x"', "error: Invalid value for '--seed'"),
        (None, "error: cannot read --config {file}: [Errno 2]"),
    ],
)
def test_bad_config_file(run, swaps, tmp_path, text, message):
    file = tmp_path / "swap.toml"
    if text is not None:
        file.write_text(text)
    code, _, err = run("swap", "M", "T", "--out", "O", "--config", file)
    assert code == 2
    assert err.startswith(message.format(file=file))
    assert swaps == []


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (("swpa",), "No such command 'swpa'. Did you mean 'swap'?", "tokenlayer --help"),
        (("transfr", "swap"), "Did you mean 'transfer'?", "tokenlayer --help"),
        (("swap", "M"), "Missing argument 'TOKENIZER'.", "tokenlayer swap --help"),
        (("swap", "M", "T"), "Missing option '--out'.", "tokenlayer swap --help"),
        (("transfer", "swap", "M", "T", "--otu", "x"), "No such option: --otu", "tokenlayer transfer swap --help"),
        (
            ("swap", "M", "T", "--out", "O", "--eval-bytes", "0"),
            "Invalid value for '--eval-bytes'",
            "tokenlayer swap --help",
        ),
        (
            ("list", "tranfser"),
            "the room is 'tranfser', expected one of: tokenizer, transfer",
            "did you mean 'transfer'?",
        ),
        (("report", "/nowhere"), "no folder /nowhere", "give the --out of a `tokenlayer swap`"),
    ],
)
def test_mistakes_of_the_user(run, args, message, hint):
    code, out, err = run(*args)
    first, last = err.splitlines()
    assert code == 2
    assert out == ""
    assert first.startswith("error: ")
    assert message in first
    assert last == f"hint: {hint}"


def raising(error):
    def swap(*args, **options):
        raise error

    return swap


SWAP = ("swap", "M", "T", "--out", "O")


def test_our_own_error_shows_message_and_hint(run, monkeypatch):
    monkeypatch.setattr(api, "swap", raising(BadOption("init is 'x'", hint="did you mean 'y'?")))
    assert run(*SWAP) == (2, "", "error: init is 'x'\nhint: did you mean 'y'?\n")
    code, _, err = run(*SWAP, "--debug")
    assert code == 2
    assert "Traceback" in err


def test_an_unexpected_error_is_one_line(run, monkeypatch):
    monkeypatch.setattr(api, "swap", raising(KeyError("no\nsuch")))
    code, out, err = run(*SWAP)
    assert (code, out) == (1, "")
    assert err == "error: KeyError: 'no\\nsuch'\nhint: run again with --debug for the traceback\n"
    assert "Traceback" in run("--debug", *SWAP)[2]


def test_interrupt(run, monkeypatch):
    monkeypatch.setattr(api, "swap", raising(KeyboardInterrupt()))
    code, out, err = run(*SWAP)
    assert (code, out) == (130, "")
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_stopped_run_leaves_nothing_behind(tmp_path, number):
    code = """
import signal, sys, time
from pathlib import Path
from tokenlayer.app import api
from tokenlayer.app.cli import main
from tokenlayer.core.outputs import fresh_folder

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored

def swap(model, tokenizer, out, **options):
    with fresh_folder(Path(out)) as folder:
        (folder / "half").write_text("")
        print("writing", flush=True)
        time.sleep(60)

api.swap = swap
main(["swap", "M", "T", "--out", sys.argv[1]])
"""
    env = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout.readline() == "writing\n"
        assert len(list(tmp_path.iterdir())) == 1
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_is_quiet():
    code = "from tokenlayer.app.cli import main; main(['list', '--json'])"
    env = {**os.environ, "PYTHONPATH": str(SOURCE)}
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, env=env)
    os.close(write)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_any_script_on_any_terminal(encoding):
    code = """
from tokenlayer.app import api
from tokenlayer.app.cli import main
from tokenlayer.core.report import Report

def doctor(what):
    report = Report("x")
    report.add_table("tokens", ["token"], [("ığdır 漢字 \\ud800",)])
    return report

api.doctor = doctor
main(["doctor", "x", "--json"])
"""
    env = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode(encoding))["tables"][0]["rows"] == [["ığdır 漢字 \ud800"]]


def test_list(run):
    code, out, _ = run("list")
    assert code == 0
    assert all(s.slug in out and f"tokenlayer {s.command}" in out for s in catalog.SYSTEMS)
    found = json.loads(run("list", "transfer", "--json")[1])["data"]["systems"]
    assert {s["room"] for s in found} == {"transfer"}
    assert {"slug", "room", "command", "paper", "year"} <= set(found[0])


def test_list_of_a_room_names_the_choices(run):
    out = run("list", "transfer")[1]
    assert "choices of --init" in out
    assert "copy-gaussian" in out
    assert run("list", "tokenizer")[0] == 0


def test_report_is_drawn_again(run, tmp_path):
    (tmp_path / "tokenlayer.json").write_text(full_report().to_json())
    code, out, err = run("report", tmp_path)
    assert code == 0
    assert "bits per byte" in out
    assert f"wrote {tmp_path / 'report.html'}" in err
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_report_of_a_folder_without_one(run, tmp_path):
    code, _, err = run("report", tmp_path)
    assert code == 2
    assert f"cannot read a report from {tmp_path / 'tokenlayer.json'}" in err


def test_completion(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(SOURCE), "_TOKENLAYER_COMPLETE": "complete_bash"}
    env |= {"COMP_WORDS": "tokenlayer transfer s", "COMP_CWORD": "2"}
    done = subprocess.run([sys.executable, "-m", "tokenlayer"], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.split() == ["swap"]


def test_progress_is_silent_without_a_terminal(capsys, monkeypatch):
    from tokenlayer.app import progress

    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.0)
    with progress.progress_bar(3, "scoring") as advance:
        advance(2)
    assert capsys.readouterr() == ("", "")


def test_progress_is_drawn_on_a_terminal(capsys, monkeypatch):
    from tokenlayer.app import progress

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0.0)
    with progress.progress_bar(3, "scoring") as advance:
        time.sleep(0.01)
        advance(2)
    with progress.progress_bar(3, "hidden", quiet=True) as advance:
        advance(2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "scoring" in err
    assert "hidden" not in err
