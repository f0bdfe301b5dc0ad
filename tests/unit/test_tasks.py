"""What people type: help, lists, the parser's two additions, and every careless line as one line and exit status 2."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fabric import Executor
from invoke.collection import Collection
from invoke.completion.complete import complete
from invoke.context import Context
from invoke.parser.context import ParserContext
from invoke.parser.parser import ParseMachine

import pmc as pmc_
from pmc.cluster import Cluster
from pmc.errors import Refused
from pmc.main import PmcConfig, program
from pmc.plans.repair_context import RepairContext, RepairOptions
from pmc.tasks import base, lookups, ns, repair, vm
from pmc.tasks.arguments import install
from pmc.tasks.base import confirm, task
from tests.unit.samples import SETTINGS, running

ROOT = Path(__file__).parents[2]
TASKS = sorted(ns.task_names)
# A task gives its flags' help away when it is first asked for its arguments (invoke), and here it is asked often.
HELP = {name: dict(ns[name].help) for name in TASKS}
CONF = '[nodes.pm-1]\nreplication = "10.0.0.1"\n[nodes.pm-2]\nreplication = "10.0.0.2"\n'

LONG = "a" * 300  # longer than the name of a file may be

Pmc = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under `pmc` and `fab`."""
    for name in ("handle", "error"):
        monkeypatch.setattr(ParseMachine, name, getattr(ParseMachine, name))  # put back afterwards
    monkeypatch.setattr(ParserContext, "help_for", ParserContext.help_for)
    monkeypatch.setattr("invoke.program.complete", complete)
    install()


@pytest.fixture
def pmc(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Pmc:
    """The `pmc` command in this process: (exit status, stdout, stderr). It has a configuration and no cluster."""
    (tmp_path / "pmc.conf").write_text(CONF)
    monkeypatch.setenv("PMC_CONF", str(tmp_path / "pmc.conf"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        for name in TASKS:
            ns[name].help = dict(HELP[name])
        try:
            program.run(["pmc", *words])
            status: Any = 0
        except SystemExit as end:
            status = end.code or 0
        out, err = capsys.readouterr()
        return int(status), out, err

    return run


def script(name: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The installed `fab` or `pmc`, as a process of its own."""
    path = Path(sys.executable).with_name(name)
    assert path.exists(), f"{name} is not installed beside this Python"
    return subprocess.run(
        [str(path), *words], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
        stdin=subprocess.DEVNULL, env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **environment},
    )  # fmt: skip


# -- help --


@pytest.mark.parametrize("name", TASKS)
def test_help(pmc: Pmc, name: str) -> None:
    status, out, _ = pmc(name, "--help")
    assert status == 0
    made = ns[name]
    assert made.__doc__
    assert made.__doc__.splitlines()[0] in out
    for argument in made.get_arguments():
        flag = argument.name.strip("_").replace("_", "-")
        assert re.search(rf"^  --(\[no-\])?{flag}(=[A-Z4,|a-z.\[\]]+)?\s+[^-\s]", out, re.M), f"--{flag} has no help"


@pytest.mark.parametrize("name", [task for task in TASKS if "." in task])  # (the others ask no node)
def test_every_task_can_be_shown_a_configuration_and_has_no_short_flags(name: str) -> None:
    arguments = ns[name].get_arguments()
    assert "conf" in {argument.name for argument in arguments}
    assert [short for argument in arguments for short in argument.names if len(short) == 1] == []


def test_list(pmc: Pmc) -> None:
    status, out, _ = pmc("--list")
    assert status == 0
    for name in TASKS:
        assert re.search(rf"^  {re.escape(name)} ", out, re.M), name


def test_fab_and_pmc_as_processes() -> None:
    for name in ("fab", "pmc"):
        got = script(name, "--list")
        assert got.returncode == 0, got.stderr
        assert all(task in got.stdout for task in TASKS)
    got = script("fab", "pm.ls", PMC_CONF="/no/such/file")
    assert (got.returncode, got.stdout) == (2, "")
    assert got.stderr.startswith("/no/such/file: no such file; fab conf > /no/such/file makes one")


# -- careless lines --


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-H x vm.ls", "-H: these tasks are the cluster's"),
        ("-H pm-1,pm-2 vm.rm web --yes", "-H: these tasks are the cluster's"),
        ("vm.ls --jsno", "vm.ls has no flag '--jsno'; is it --json? Next: fab vm.ls --help"),
        ("vm.ls extra", "vm.ls: 'extra' is one word too many. Next: fab vm.ls --help"),
        ("vm.lst", "there is no task 'vm.lst'; is it vm.ls"),
        ("vm stop web", "there is no task 'vm'. Next: fab --list"),
        ("evacuate pm-1", "there is no task 'evacuate'; is it pm.evacuate? Next: fab --list"),
        ("vm.mv web pm-2", "vm.mv: 'pm-2' is one word too many (a node is given as --to pm-2). Next: fab vm.mv --help"),
        ("vm.start a b", "'b'"),
        ("vm.ls --conf /no/such/file", "/no/such/file: no such file"),
        ("vm.start", "vm.start: the VM's name is missing. Next: fab vm.ls"),
        ("vm.start We.b", "vm.start 'We.b'"),
        ("vm.start web --on pm-9", "--on 'pm-9': no such node"),
        ("vm.start web --on", "vm.start: --on needs a value. Next: fab vm.start --help"),
        ("vm.stop", "vm.stop: the VM's name is missing"),
        ("vm.repair", "vm.repair: the VM's name is missing"),
        ("vm.repair web --keep pm-9", "--keep 'pm-9': no such node"),
        ("vm.mv", "vm.mv: name the VMs, or give --all-from NODE"),
        ("vm.mv web --all-from pm-1", "vm.mv: name the VMs, or give --all-from NODE"),
        ("vm.mv --all-from pm-9", "--all-from 'pm-9': no such node"),
        ("vm.mv web --to pm-9", "--to 'pm-9': no such node"),
        ("vm.mv web,,mail", "vm.mv: the VM's name is missing"),
        ("vm.mv ../etc/passwd", "vm.mv '../etc/passwd'"),
        ("vm.add", "vm.add ''"),
        ("vm.add web", "--size and --memory are missing: such as --size 50G --memory 4G"),
        ("vm.add web --size 1", "--memory is missing"),
        ("vm.add web --reuse", "--primary is missing: with --reuse, the node"),
        ("vm.add web --single --secondary pm-2", "--single and --secondary: choose one"),
        ("vm.add web --primary pm-9", "--primary 'pm-9': no such node"),
        ("vm.add web --primary pm-1 --size x --memory 1", "--size: 'x' is not a size"),
        ("vm.add web --primary pm-1 --size 1 --memory 1 --cpus 0", "--cpus '0'"),
        ("vm.peer", "vm.peer: the VM's name is missing"),
        ("vm.peer web", "vm.peer: give --secondary NODE or --cleanup"),
        ("vm.peer web --secondary pm-2 --cleanup", "vm.peer: give --secondary NODE or --cleanup"),
        ("vm.peer web --secondary pm-9", "--secondary 'pm-9': no such node"),
        ("vm.backup", "vm.backup: name the VM, or give --all"),
        ("vm.backup web --all", "vm.backup: name the VM, or give --all"),
        ("vm.backup web --jobs 2", "--jobs and --total: go with --all"),
        ("vm.backup web --total 8", "--jobs and --total: go with --all"),
        ("vm.backup We.b", "vm.backup 'We.b'"),
        ("vm.backup web --to pm-9", "--to 'pm-9': no such node"),
        ("vm.backup web --limit 50", "--limit '50': bytes a second with a unit"),
        ("vm.backup web --limit fast", "--limit 'fast'"),
        ("vm.backup --all --jobs 0", "--jobs '0'"),
        ("vm.backup --all --total 33", "--total '33'"),
        ("vm.verify_backup", "vm.verify_backup: name the VM, or give --all"),
        ("vm.verify_backup web --backup x --all", "--backup and --all: choose one"),
        ("vm.backups --from /no/such/folder", "--from '/no/such/folder': no directory on this machine"),
        ("vm.restore web", "give one of --as NEW, --in-place, --to FILE"),
        ("vm.restore web --as new --in-place", "give one of --as NEW, --in-place, --to FILE"),
        ("vm.restore web --in-place --primary pm-1", "go with --as, not with --in-place"),
        ("vm.restore web --to /no/such/folder/x", "--to '/no/such/folder/x': must be a new file"),
        ("vm.restore web --to /etc/hostname", "--to '/etc/hostname': must be a new file"),
        ("vm.restore web --as Web", "--as 'Web'"),
        ("vm.backups all", "vm.backups 'all'"),
        ("vm.restore", "vm.restore: the VM's name is missing"),
        ("vm.prune", "vm.prune: name the VM, or give --all"),
        ("vm.prune web --all", "vm.prune: name the VM, or give --all"),
        ("vm.prune We.b --keep-last 1", "vm.prune 'We.b'"),
        ("vm.prune web", "no rule says what to keep, and"),
        ("vm.prune --all", "[keep] in pmc.conf"),
        ("vm.prune web --keep-last 0", "the rules keep nothing at all"),
        ("vm.prune web --keep-daily -1", "--keep-daily '-1': must be a whole number, 0 or more"),
        ("vm.prune web --keep-weekly 1.5", "--keep-weekly '1.5'"),
        ("vm.prune web --keep-last all", "--keep-last 'all'"),
        ("pm.verify --vm all", "--vm 'all'"),
        ("pm.verify --vm $(id)", "--vm '$(id)'"),
        ("pm.verify web", "pm.verify: 'web' is one word too many"),
        ("vm.rm", "vm.rm: the VM's name is missing"),
        ("vm.failover", "vm.failover: the VM's name is missing"),
        ("vm.failover all", "vm.failover 'all'"),
        ("vm.failover web --dead pm-9", "--dead 'pm-9': no such node"),
        ("pm.evacuate", "pm.evacuate '': no such node"),
        ("pm.evacuate pm-9", "pm.evacuate 'pm-9': no such node"),
        ("vm.mv web --bandwidth 50", "--bandwidth '50': bytes a second with a unit, such as 50M"),
        ("vm.mv web --bandwidth -5M", "--bandwidth '-5M'"),
        ("vm.mv web --pause-after soon", "--pause-after 'soon': seconds, 86400 at most; 0: never"),
        ("pm.evacuate pm-1 --pause-after 100000", "--pause-after '100000'"),
        ("vm.mv web --pause-after 3600", "--pause-after 3600: a migration is given up after 3600 s"),
        (
            "vm.mv web --bandwidth 999999999T",
            "--bandwidth '999999999T': bytes a second with a unit, such as 50M; 1T at most",
        ),
        ("vm.mv web --parallel 0", "--parallel '0': must be a number from 1 to 32"),
        ("vm.mv web,mail --parallel 2.5", "--parallel '2.5'"),
        ("vm.mv web --cleanup --bandwidth 5M", "--pause-after: go with a live migration, not with --cleanup"),
        ("vm.mv web --cleanup --parallel 2", "--to, --parallel, --bandwidth, --pause-after: go with a live migration"),
        ("vm.mv web --cleanup --to pm-2", "--to, --parallel, --bandwidth, --pause-after: go with a live migration"),
        ("pm.evacuate pm-1 --failover --pause-after 9", "--bandwidth and --pause-after: go with live migrations"),
        ("pm.evacuate pm-1 --parallel 0", "--parallel '0': must be a number from 1 to 32"),
        ("pm.evacuate pm-1 --parallel many", "--parallel 'many'"),
        (f"vm.mv web --parallel {'9' * 5000}", "999': must be a number from 1 to 32"),
        (f"pm.balance --parallel {'9' * 5000}", "999': must be a number from 1 to 32"),
        ("pm.evacuate pm-1 --dead pm-1", "--dead 'pm-1': goes with --failover"),
        ("pm.evacuate pm-1 --failover --dead pm-2", "--dead 'pm-2': goes with --failover, and names the same node"),
        ("pm.balance --json", "--json: give --dry-run to see the moves, or --yes to carry them out"),
        ("pm.balance --parallel 33", "--parallel '33': must be a number from 1 to 32"),
        ("pm.balance --bandwidth fast", "--bandwidth 'fast'"),
        ("pm.balance --pause-after 3600", "--pause-after 3600: a migration is given up after 3600 s"),
        ("pm.balance pm-1", "pm.balance: 'pm-1' is one word too many"),
        ("vm.rm $(id) --yes", "vm.rm '$(id)'"),
        (
            "-T abc conf",
            "fab cannot begin: ValueError: invalid literal for int() with base 10: 'abc'. Next: fab --help",
        ),
        ("-t abc conf", "fab cannot begin: ValueError"),
        ("-D x --list", "fab cannot begin: ValueError"),
        ("-F xx --list", "-F 'xx': must be flat, nested or json"),
        ("-S /nonexistent conf", "No such file or directory: '/nonexistent'"),
        ("-f /nonexistent conf", "Config files of type '' (from file '/nonexistent') are not supported!"),
        ("-f /tmp conf", "(from file '/tmp') are not supported!"),
        ("conf -- ls", "--: nothing may stand behind it ('ls')"),
        ("-H x -- ls", "--: nothing may stand behind it ('ls')"),
        ("vm.start -- web", "--: nothing may stand behind it ('web')"),
        ("--list nosuch", "Sub-collection 'nosuch' not found!"),
        ("--help nosuch", "No idea what 'nosuch' is!"),
        ("--print-completion-script foo", 'Completion for shell "foo" not supported'),
        (f"vm.backups --from /{LONG}", "aaa': File name too long"),
        (f"vm.prune web --keep-last 1 --from /{LONG}", "aaa': File name too long"),
        (f"vm.verify_backup web --from /{LONG}", "aaa': File name too long"),
        (f"vm.backup web --to /{LONG}", "aaa': File name too long"),
        (f"vm.restore web --to /{LONG}", "aaa': File name too long"),
        (f"vm.restore web --to /{LONG}/x", "': File name too long"),
        ("vm.restore web --to /etc/hostname/x", "--to '/etc/hostname/x': must be a new file"),
        ("vm.backups --from ~nouser/x", "--from '~nouser/x': this machine does not know whose home folder is meant"),
        ("vm.restore web --to ~nouser/x", "--to '~nouser/x': this machine does not know"),
        ("vm.restore web --to x --from ~nouser/x", "--from '~nouser/x': this machine does not know"),
        ("vm.backup web --to ~nouser/x", "--to '~nouser/x': this machine does not know"),
    ],
)
def test_refused_in_one_line(pmc: Pmc, line: str, words: str) -> None:
    status, out, err = pmc(*line.split())
    assert (status, out) == (2, ""), err
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("line", ["vm.backups --from x", "vm.restore web --to x", "vm.backup web --to ./x"])
def test_a_folder_that_was_removed_under_one(pmc: Pmc, tmp_path: Path, line: str) -> None:
    (tmp_path / "gone").mkdir()
    with contextlib.chdir(tmp_path / "gone"):
        (tmp_path / "gone").rmdir()
        status, _, err = pmc(*line.split())
    assert (status, len(err.splitlines())) == (2, 1), err
    assert "x': the folder that you are in is not there any more" in err


@pytest.mark.parametrize(
    "line", ["vm.backups --from {}", "vm.backup web --to {}", "vm.restore web --to {}", "vm.restore web --to {}/x"]
)
def test_a_folder_that_one_may_not_look_into(
    pmc: Pmc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    real, closed = os.stat, str(tmp_path / "closed")

    def stat(path: Any, **how: Any) -> Any:
        if str(path).startswith(closed):
            raise PermissionError(13, "Permission denied")
        return real(path, **how)

    monkeypatch.setattr(os, "stat", stat)
    status, _, err = pmc(*line.format(f"{closed}/x").split())
    assert (status, len(err.splitlines())) == (2, 1), err
    assert f"{closed}/x" in err
    assert err.endswith("': Permission denied\n")


def test_a_home_that_is_no_folder(pmc: Pmc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/etc/hostname")
    status, out, err = pmc("conf")
    assert (status, out, len(err.splitlines())) == (2, "", 1), err
    assert "fab cannot begin: NotADirectoryError: " in err


def test_a_fault_of_our_own_is_told_with_its_text(pmc: Pmc, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> None:
        raise KeyError("a thing\nof ours")

    monkeypatch.setattr(ParseMachine, "handle", wrong)
    assert pmc("conf")[::2] == (2, "fab cannot begin: KeyError: 'a thing\\nof ours'. Next: fab --help\n")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("vm.add --image", ""),  # the shell has files there
        ("vm.mv web --to", ""),
        ("vm.mv web --", "--all-from"),
        ("vm.nosuch --", "--list"),
        ("vm.start web web", "vm.start"),
        ("vm.start web -x", ""),
        ("'", ""),
    ],
)
def test_completing_a_line_prints_no_error_into_it(pmc: Pmc, line: str, words: str) -> None:
    status, out, err = pmc("--complete", "--", "pmc", *line.split())
    assert (status, err) == (0, "")
    assert words in out.splitlines() if words else not out
    assert pmc("vm.nosuch")[0] == 2, "afterwards it is an error again"


def test_a_configuration_that_is_wrong(pmc: Pmc, tmp_path: Path) -> None:
    (tmp_path / "pmc.conf").write_text("bridg = 1\n" + CONF)
    assert pmc("vm.ls")[0] == 2
    assert "unknown key 'bridg'" in pmc("pm.ls")[2]
    (tmp_path / "other").write_text("x = ")
    assert "not valid TOML" in pmc("pm.ls", "--conf", str(tmp_path / "other"))[2]


def test_nobody_is_there_to_confirm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(Refused, match="give --yes if you are sure"):
        confirm("web is removed", "web")


@pytest.mark.parametrize(
    ("typed", "goes_on"), [("web\n", True), (" web \n", True), ("y\n", False), ("\n", False), ("", False)]
)
def test_confirming(monkeypatch: pytest.MonkeyPatch, typed: str, goes_on: bool) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin.readline", lambda: typed, raising=False)
    if goes_on:
        confirm("web is removed", "web")
        return
    with pytest.raises(Refused, match="not confirmed; nothing was touched"):
        confirm("web is removed", "web")


def test_an_answer_that_is_no_text_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of another character set, for instance."""
    case = RepairContext("web", ("pm-1", "pm-2"), running(), {}, SETTINGS, RepairOptions(lookups.now()))
    asks: list[Callable[[], object]] = [lambda: confirm("web is removed", "web"), lambda: repair._chosen(case)]
    for ask in asks:
        stdin = io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n"), encoding="utf-8")
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr(stdin, "isatty", lambda: True, raising=False)
        with pytest.raises(Refused, match="nothing was touched"):
            ask()


# -- the positional argument that may be left out, on tasks that only write down how they were called --

CALLS: list[tuple[str, dict[str, Any]]] = []


def note(name: str, /, **given: Any) -> None:
    CALLS.append((name, {key: value for key, value in given.items() if value}))


@task(place="node", node="a node")
def ready_drbd(c: Any, node: str = "") -> None:
    """As pm.ready_drbd."""
    note("ready_drbd", node=node)


@task(place="names", names="VMs", all_from="a node", to="a node", dry_run="show")
def mv(c: Any, names: str = "", all_from: str = "", to: str = "", dry_run: bool = False) -> None:
    """As vm.mv."""
    note("mv", names=names, all_from=all_from, to=to, dry_run=dry_run)


@task(place="name", name="a VM", force="do it")
def stop(c: Any, name: str = "", force: bool = False) -> None:
    """As vm.stop."""
    note("stop", name=name, force=force)


@task(place="name", name="a VM", as_="new")
def restore(c: Any, name: str = "", as_: str = "") -> None:
    """As vm.restore."""
    note("restore", name=name, as_=as_)


def called(line: str, exit: bool = False) -> list[tuple[str, dict[str, Any]]]:
    from fabric.main import Fab

    tasks = Collection(auto_dash_names=False)
    for each in (ready_drbd, mv, stop, restore):
        tasks.add_task(each)
    CALLS.clear()
    stub = Fab(name="stub", version="0", namespace=tasks, executor_class=Executor, config_class=PmcConfig)
    stub.run(["stub", *line.split()], exit=exit)
    return list(CALLS)


@pytest.mark.parametrize(
    ("line", "calls"),
    [
        ("ready_drbd", [("ready_drbd", {})]),
        ("ready_drbd pm-1", [("ready_drbd", {"node": "pm-1"})]),
        ("ready_drbd --node pm-1", [("ready_drbd", {"node": "pm-1"})]),
        ("ready_drbd --node=pm-1", [("ready_drbd", {"node": "pm-1"})]),
        ("mv web", [("mv", {"names": "web"})]),
        ("mv web,mail --to pm-2", [("mv", {"names": "web,mail", "to": "pm-2"})]),
        ("mv --to pm-2 web,mail", [("mv", {"names": "web,mail", "to": "pm-2"})]),
        ("mv --all-from pm-1", [("mv", {"all_from": "pm-1"})]),
        ("mv --all-from pm-1 --dry-run", [("mv", {"all_from": "pm-1", "dry_run": True})]),
        ("mv --dry-run web", [("mv", {"names": "web", "dry_run": True})]),
        ("stop --force web", [("stop", {"name": "web", "force": True})]),
        ("restore web --as new", [("restore", {"name": "web", "as_": "new"})]),
        ("stop web mv web restore web",
         [("stop", {"name": "web"}), ("mv", {"names": "web"}), ("restore", {"name": "web"})]),
        ("stop web --force ready_drbd stop mail", [("stop", {"name": "web", "force": True}), ("ready_drbd", {}),
                                                   ("stop", {"name": "mail"})]),
        ("ready_drbd mv --all-from pm-1", [("ready_drbd", {}), ("mv", {"all_from": "pm-1"})]),
        ("stop --name mv", [("stop", {"name": "mv"})]),
    ],
)  # fmt: skip
def test_lines_that_are_understood(line: str, calls: list[tuple[str, dict[str, Any]]]) -> None:
    assert called(line) == calls


@pytest.mark.parametrize(
    "line", ["stop web mail", "stop --name web mail", "mv a b", "stop --nmae web", "mv web --all-from"]
)
def test_lines_that_are_not(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        called(line, exit=True)
    assert end.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert CALLS == [], "nothing of a line runs when a part of it is not understood"


def test_a_task_from_python_is_a_plain_call() -> None:
    CALLS.clear()
    stop(Context(), "web", force=True)
    assert CALLS == [("stop", {"name": "web", "force": True})]


# -- what a command is called in the audit log, and to those who wait for its lock --


def test_a_command_is_named_as_it_was_typed_without_secrets() -> None:
    given = {"name": "web", "size": "50 G", "virt_install": "--graphics vnc,password=hunter2", "cpus": "1", "pxe": True}
    line = base._typed(ns["vm.add"].body.__wrapped__, "name", (), {**given, "conf": "/x", "secondary": None})
    assert line == "vm.add web --size '50 G' --pxe --virt-install ***"
    for name in TASKS:
        assert base._typed(ns[name].body.__wrapped__, "", (), {}) == name


def test_nothing_to_lock_locks_nothing() -> None:
    """As when pm.ready_drbd has a volume to activate, and no VM to touch."""
    base.lock(Context(), Cluster(SETTINGS), False)


def test_a_pipeline_has_each_task_of_a_vm_in_one_module() -> None:
    """As the README says: `from pmc.tasks import vm`."""
    names = {name.removeprefix("vm.") for name in TASKS if name.startswith("vm.")}
    assert {name for name in names if callable(getattr(vm, name, None))} == names == set(vm.__all__)


@pytest.mark.parametrize("words", [["--list"], ["vm.add", "--help"], ["--version"]])
def test_a_help_of_which_nobody_reads_the_rest(words: list[str]) -> None:
    """pmc --list | head -1, where head has ended already."""
    reading, writing = os.pipe()
    os.close(reading)
    code = "from pmc.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *words], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "status"), [("nonsense", 2), ("vm.ls --conf /none", 2), ("vm.ls --nonsense", 2), ("--list", 0)]
)
def test_a_reader_that_left_changes_no_status(words: str, status: int) -> None:
    """pmc nonsense 2>&1 | true"""
    reading, writing = os.pipe()
    os.close(reading)
    code = "from pmc.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *words.split()], stdout=writing, stderr=writing)
    os.close(writing)
    assert done.returncode == status


@pytest.mark.parametrize(("words", "status"), [("--version", 0), ("vm.ls --conf /none", 2)])
def test_a_stdout_that_is_closed(words: str, status: int) -> None:
    """As a service may have it."""
    line = f"exec {sys.executable} -c 'from pmc.main import main; main()' {words} >&-"
    done = subprocess.run(["bash", "-c", line], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr


def test_a_program_that_imports_the_tasks_keeps_its_own_command_line() -> None:
    code = (
        "from invoke.parser.parser import ParseMachine as it; before = it.handle, it.error; import pmc.tasks; "
        "assert (it.handle, it.error) == before; import fabfile; assert (it.handle, it.error) != before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_full_disk_behind_stdout_is_said() -> None:
    code = "from pmc.main import main; main()"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code, "--list"], stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (1, "stdout cannot be written: No space left on device\n")
        # And one behind stderr changes no status.
        assert subprocess.run([sys.executable, "-c", code, "nonsense"], stderr=full).returncode == 2


def test_ctrl_c_while_the_libraries_load() -> None:
    """The installed command starts there."""
    module, _, name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["pmc"].partition(":")
    code = (
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(name, *_):\n"
        "        if name == 'fabric': raise KeyboardInterrupt\n"
        f"sys.meta_path.insert(0, Finder)\nfrom {module} import {name}\n{name}()"
    )
    done = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "interrupted; nothing was touched\n")
    whole = subprocess.run([sys.executable, "-m", "pmc", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert (whole.returncode, whole.stdout.splitlines()[0]) == (0, f"pmc {pmc_.__version__}")
