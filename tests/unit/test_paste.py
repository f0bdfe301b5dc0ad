"""What --dry-run prints is what runs: bash runs the lines, with an ssh that notes what reaches which node, and that is
compared with what `apply` would run there."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pmc import backup_pipeline, paste, virsh
from pmc.actions import Action, Fetch, Relay, Transfer, Wait, Watch
from pmc.command import Command, bash, command
from pmc.errors import Refused
from pmc.paste import Way
from pmc.plain import plain
from pmc.plan import Plan, Step, apply, plan
from pmc.plans import close_migration, migrate
from pmc.settings import NodeSettings
from pmc.transport import local
from pmc.transport.connection import configuration
from pmc.transport.login import by_hand
from pmc.view import output
from tests.sim.fake import World, done
from tests.unit.refusals import raises
from tests.unit.samples import SETTINGS, XML
from tests.unit.stories import STORIES, moved_web, with_thin_web, with_two, with_web
from tests.unit.test_plain import EVIL

Arrived = tuple[str, tuple[str, ...], str]  # the node, the words that its shell has, stdin
# As sshd has it: what stands behind -- joined by spaces, for the login shell. It ends as $FAILS says when that fits.
SSH = r"""#!/bin/bash
given=; if [ "$1" = -n ]; then shift; else given=$(cat; echo .); fi
node=$1; [ "$2" = -- ] || exit 99; shift 2
eval "set -- $*"
printf '%s\0' "$node" "${given%.}" "$#" "$@" >>"$ARRIVED"
[ -z "$FAILS" ] || [[ $* != *$FAILS* ]] || exit "$STATUS"
[ "$1" != cat ] || printf %s "$SAYS"
"""
PROGRAM = "the program\n"


class Shell:
    """bash on the manager."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "arrived"
        (folder / "ssh").write_text(SSH)
        (folder / "python").write_text(
            f'#!/bin/sh\n[ "$1$2" = -mpmc.backup_pipeline ] && printf %s {shlex.quote(PROGRAM)}\n'
        )
        for name in ("ssh", "python"):
            (folder / name).chmod(0o755)

    def script(self, *plans: Plan, sudo: bool = False) -> str:
        return paste.script(
            plans, lambda name: Way(("ssh", f"root@{name}"), sudo) if name != local.MANAGER else Way(), "python"
        )

    def run(self, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """As it is pasted: bash reads it from its stdin. Afterwards it says `end`."""
        self.log.write_text("")
        env = {
            "PATH": f"{self.folder}:/usr/bin:/bin", "ARRIVED": str(self.log), "FAILS": "", "STATUS": "1", "SAYS": "",
            **variables,
        }  # fmt: skip
        return subprocess.run(
            ["bash", "-e"], input=f"{script}\necho end\n", env=env, capture_output=True, text=True, check=False,
            cwd=self.folder, timeout=120,
        )  # fmt: skip

    def arrived(self) -> list[Arrived]:
        words, found = self.log.read_bytes().decode().split("\0")[:-1], list[Arrived]()
        while words:
            node, given, count = words[:3]
            argv = tuple(words[3 : 3 + int(count)])
            found.append((node.removeprefix("root@"), argv[2:] if argv[:2] == ("env", "LC_ALL=C") else argv, given))
            words = words[3 + int(count) :]
        return found


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def applied(*plans: Plan) -> list[Arrived]:
    """What `apply` runs where, in its order."""
    found = list[Arrived]()

    def run(node: str, action: Action, watch: Watch | None) -> None:
        if isinstance(action, Command):
            text = action.stdin or ""
            text = PROGRAM if action.printer else text
            found.append((node, action.argv, text if text.endswith("\n") or not text else f"{text}\n"))
        elif isinstance(action, Wait):
            found.append((node, action.ask.argv, ""))
        elif isinstance(action, Transfer):
            found.append((node, action.target.argv, Path(action.source).read_text()))
        elif isinstance(action, Fetch):
            found.append((node, action.source.argv, ""))
        else:
            found.extend([(action.source, action.reader.argv, ""), (node, action.target.argv, "said\n")])

    for each in plans:
        apply(each, run)
    return found


def moved_here(plan: Plan, folder: Path) -> Plan:
    """With the manager's files in this folder."""
    source = folder / "given"
    source.write_text("given\n")

    def here_(action: Action) -> Action:
        if isinstance(action, Transfer):
            return replace(action, source=str(source))
        if isinstance(action, Fetch):
            return replace(action, target=str(folder / "fetched it"), size=0, most=1)
        return action

    return replace(plan, steps=tuple(replace(step, do=here_(step.do)) for step in plan.steps))


@pytest.mark.parametrize("name", STORIES)
def test_what_is_pasted_is_what_runs(shell: Shell, name: str) -> None:
    story = moved_here(STORIES[name]().plan, shell.folder)
    script = shell.script(story)
    assert "hunter2" not in script
    ended = shell.run(script)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "end\n", "")
    texts = "".join(given for _, _, given in shell.arrived())
    made = set(re.findall(r'shared-secret "(.*)"', texts))
    assert len(made) <= 1
    assert all(re.fullmatch("[0-9a-f]{48}", each) for each in made), "another one than that of this dry run"
    arrived = [(node, argv, re.sub(r"\b[0-9a-f]{48}\b", "hunter2", given)) for node, argv, given in shell.arrived()]
    assert arrived == applied(story)


def test_a_plan_prints_as_lines_that_reach_their_nodes(shell: Shell) -> None:
    story = STORIES["vm.start"]().plan
    assert shell.script(story).splitlines() == [
        "(set -e",
        "# vm.start web: 2 steps",
        "# 1. pm-1: make web primary",
        "ssh -n root@pm-1 -- drbdadm primary web",
        "# 2. pm-1: start web",
        "ssh -n root@pm-1 -- virsh --connect qemu:///system start --force-boot web",
        ")",
    ]
    assert "ssh -n root@pm-1 -- sudo -n -- drbdadm primary web\n" in shell.script(story, sudo=True)
    assert shell.script(Plan("nothing", ())) == "# nothing: 0 steps"
    shell.run(shell.script(plan("x", Step("pm-1", "x", bash("echo $1", "a'b $c"))), sudo=True))
    assert shell.arrived()[0][1] == ("sudo", "-n", "--", "env", "LC_ALL=C", *bash("echo $1", "a'b $c").argv)


def test_a_wait_that_never_holds_ends_it(shell: Shell) -> None:
    """Before, a plan that was pasted made a second primary whatever DRBD's status was."""
    story = STORIES["vm.mv"]().plan
    hurried = [replace(s, do=replace(s.do, seconds=1)) if isinstance(s.do, Wait) else s for s in story.steps]
    ended = shell.run(shell.script(replace(story, steps=tuple(hurried))), FAILS="drbdsetup events2")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("DRBD is not Connected with both sides UpToDate")
    assert not any("primary" in argv for _, argv, _ in shell.arrived())


def test_the_first_line_that_fails_ends_it_and_a_terminals_shell_stays(shell: Shell) -> None:
    script = shell.script(STORIES["vm.rm"]().plan, STORIES["vm.stop"]().plan)
    ended = shell.run(script, FAILS="undefine", STATUS="3")
    assert (ended.returncode, ended.stdout) == (3, "")
    assert [argv[3] for _, argv, _ in shell.arrived()] == ["destroy", "undefine"]
    stays = shell.run(f"set +e\n{script}", FAILS="undefine", STATUS="3")
    assert (stays.returncode, stays.stdout, len(shell.arrived())) == (0, "end\n", 2)


def test_what_runs_here_runs_here(shell: Shell) -> None:
    folder = shell.folder
    (folder / "an image").write_text("image\n")
    files = plan(
        "files",
        Step("pm-1", "give", Transfer(str(folder / "an image"), 6, command("put", "a b"))),
        Step("pm-2", "fetch", Fetch(command("cat", "/b"), str(folder / "it's"), 4)),
        Step("pm-2", "relay", Relay("pm-1", command("cat", "key"), command("append"))),
        Step(local.MANAGER, "here", command("touch", str(folder / "touched"))),
    )
    ended = shell.run(shell.script(files), SAYS="said")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert shell.arrived() == applied(Plan("", files.steps[:3]))
    assert (folder / "it's").read_text() == "said"
    assert (folder / "it's").stat().st_mode & 0o77 == 0
    assert (folder / "touched").exists()
    (folder / "it's").unlink()
    (folder / ".it's.part").symlink_to(folder / "another's")  # in a folder where others may write
    assert shell.run(shell.script(files), SAYS="said").returncode == 0
    assert (folder / "it's").is_file()
    assert not (folder / "another's").exists()
    (folder / "it's").unlink()
    assert shell.run(shell.script(files), SAYS="too much").returncode == 1
    assert not (folder / "it's").exists()
    assert len(shell.arrived()) == 2, "nothing after it"
    assert shell.run(shell.script(files), SAYS="said", FAILS="key", STATUS="4").returncode == 4
    assert shell.arrived()[-1][1] == ("cat", "key")


TITLE = f"<title>{EVIL}\u200f it's \\x41 `$HOME`</title><description>see fab vm.ls</description>"


@pytest.mark.parametrize("password", ["", "pa$s`w\\ord"])
def test_what_a_terminal_would_act_on_runs_as_it_is(
    shell: Shell, password: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/pmc"])
    evil = TITLE.replace("\x00", "").replace("\ud800", "")  # neither can be in a text of a node's
    xml = evil + (f'<graphics type="vnc" passwd="{password}"/>' if password else "")
    steps = (
        Step("pm-1", f"define {evil}", virsh.define(f"<domain>{xml}</domain>\n")),
        Step("pm-1", "an argument", command("put", evil)),
        Step(local.MANAGER, "here", command("touch", str(shell.folder / "a\x1b[2J"))),
    )
    output.show_script(shell.script(plan("x", *steps)))
    script = capsys.readouterr().out
    assert plain(script) == script
    assert shell.run(script, password=password).returncode == 0
    assert shell.arrived() == applied(plan("x", *steps[:2]))
    assert (shell.folder / "a\x1b[2J").exists()
    assert "see pmc vm.ls" in next(line for line in script.splitlines() if line.startswith("# 1."))


def test_lines_that_stdout_has_no_letters_for_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with raises(Refused, "output.show_script", "(ascii)", "LC_ALL=C.UTF-8"):
        output.show_script("ssh -n root@pm-1 -- läuft")


@pytest.mark.parametrize("password", ["pa$s`w\\ord", "a", "a&amp;b&lt;c"])
def test_a_password_is_asked_for_and_not_shown(shell: Shell, password: str) -> None:
    xml = XML.replace("</devices>", f'<graphics type="vnc" passwd="{password}"/></devices><a>`$HOME` \\ \\\n$(x)</a>')
    define = plan("define", Step("pm-1", "define", virsh.define(xml)), Step("pm-2", "define", virsh.define(xml)))
    script = shell.script(define)
    assert f'"{password}"' not in script
    without = shell.run(script)
    assert without.returncode != 0
    assert "password: is a password in the definition of the VM" in without.stderr
    assert shell.arrived() == []
    assert shell.run(script, password=password).returncode == 0
    assert shell.arrived() == applied(define)


@pytest.mark.parametrize("name", ["hashlib.py", "pmc.py"])
def test_the_program_that_reads_disks_comes_from_the_manager(tmp_path: Path, name: str) -> None:
    """From any folder, be it one where others may write, with the Python that pmc has."""
    (tmp_path / name).write_text("raise SystemExit('not this one')\n")
    line = paste.script(
        [plan("x", Step("pm-1", "x", backup_pipeline.bring()))], lambda name: Way(("ssh", "n")), local.PYTHON
    )
    printer = line.splitlines()[3].partition(" | ssh n -- ")[0]
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    assert subprocess.run(["bash", "-c", printer], cwd=tmp_path, env=env, capture_output=True).stdout == (
        backup_pipeline.PROGRAM.encode()
    )


@pytest.mark.parametrize("begin", [with_web, with_thin_web, with_two, lambda: done(moved_web(), closed(moved_web()))])
def test_the_closing_that_is_printed_is_the_one_that_runs(begin: Callable[[], World]) -> None:
    world = begin()
    state = world.state()
    (target,) = (home for home in state.homes("web") if home not in state.active_on("web"))
    printed = close_migration.planned_close("web", target, state)
    world = done(world, migrate.move("web", "", state, SETTINGS))
    assert printed == closed(world)
    assert len(printed.steps) == 3


def closed(world: World) -> Plan:
    return close_migration.close("web", world.state())


@pytest.mark.parametrize(
    ("host", "config", "ssh", "sudo"),
    [
        ("", "User root", ["root@pm-1"], False),
        ("", "User admin\nPort 2222", ["admin@pm-1"], True),
        ("10.0.0.9", "User root\nProxyJump gate", ["root@10.0.0.9"], False),
        ("root@10.0.0.9:2222", "", ["-p", "2222", "root@10.0.0.9"], False),
    ],
)
def test_a_persons_ssh_goes_the_same_way(
    tmp_path: Path, host: str, config: str, ssh: Sequence[str], sudo: bool
) -> None:
    path = tmp_path / "ssh config"
    path.write_text(f"Host *\n{config}\n")
    settings = replace(SETTINGS, ssh_config=str(path))
    way = by_hand(NodeSettings("pm-1", "10.0.0.1", host), settings, configuration(settings))
    assert way == Way(("ssh", "-F", str(path), *ssh), sudo)
