"""What nodes, guests, manifests, files and other people say reaches a terminal as text and as nothing else."""

from __future__ import annotations

import io
import json
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pmc import audit, lock_files
from pmc.actions import Watch
from pmc.command import command
from pmc.errors import CommandFailed, InDoubt, NodeDown, PmcError, Refused, StepFailed
from pmc.plain import MOST, escaped, one_line, plain
from pmc.plan import Plan, Step
from pmc.tasks import base
from pmc.view import output

# A new title, an empty screen with a row of its own, the clipboard, C1's CSI, what is written from right to left, half
# a letter, a bell, and a carriage return that writes over what stands there.
EVIL = "\x1b]0;PWNED\x07\x1b[2J\x1b[1;1Hweb running\x1b]52;c;QQ==\x07\x9b2J\u202eevil\u2066\ud800\x07\r\x08\x7f\x00ä✓😀"
TEXT = st.text(st.characters(), max_size=60)


def fit(text: str, lines: int = 0) -> None:
    """`lines`: no more than that many."""
    for letter in text:
        kind = unicodedata.category(letter)
        assert kind not in ("Cc", "Cs", "Zl", "Zp") or letter in "\t\n", hex(ord(letter))
        assert unicodedata.bidirectional(letter) not in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    assert not lines or len(text.strip("\n").split("\n")) <= lines, text


@given(TEXT)
@example(EVIL)
@example("".join(map(chr, range(0x300))))
@example("".join(map(chr, range(0x2000, 0x2100))))
def test_any_text_is_fit_and_what_was_fit_is_unchanged(text: str) -> None:
    for made in (plain(text), escaped(text)):
        fit(made)
        assert made.count("\n") == text.count("\n")
        assert plain(made) == made
    fit(one_line(text), lines=1)
    assert plain("web läuft\n\tauf pm-1 ✓ 😀") == "web läuft\n\tauf pm-1 ✓ 😀"
    quoted = json.dumps([text], ensure_ascii=False)
    assert json.loads(escaped(quoted)) == [text]


def test_one_line_is_no_longer_than_a_person_reads() -> None:
    assert len(one_line("x" * 10**6)) == MOST
    assert one_line("a\nb\tc") == "a b c"


def step(note: str) -> Plan:
    return Plan("title", (Step("pm-1", note, command("true")),))


@pytest.mark.parametrize("way", ["note", "step", "bar"])
def test_what_is_noted(way: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with output.Progress() as progress:
        if way == "note":
            output.note(f"{EVIL}\nsecond")
        elif way == "step":
            progress.step(0, step(EVIL))
        else:
            with progress.bytes(Watch("bytes", EVIL, 10), 10) as bar:
                bar.dd(f"{'9' * 390} bytes\n5 bytes\n")
                assert bar._bar.n == 5
    _, err = capsys.readouterr()
    fit(err.replace("\r", "").replace("\x1b[A", ""), lines=2)  # tqdm's own
    assert "PWNED" in err


@dataclass(frozen=True)
class Shown(output.Plain):
    a: str
    b: int


def test_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    output.show(f"{EVIL}\nsecond")
    rows = [Shown(f"{EVIL}\nx", 1), Shown("y" * 10**6, 2)]
    output.show(output.table(rows, ("a", "b")))
    out, _ = capsys.readouterr()
    fit(out, lines=6)
    assert len(out) < 10 * MOST
    output.show(output.document(rows))
    out, _ = capsys.readouterr()
    fit(out)
    assert json.loads(out) == [row.json() for row in rows], "JSON escapes it, so nothing is lost"


def test_a_terminal_without_the_letters_is_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """LC_ALL=C, or an old terminal: a node's name for something must not end a listing."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    output.show(f"web läuft ✓ {EVIL}")
    out.seek(0)
    assert out.read().startswith("web l?uft ? ")


HOLDER = json.dumps({"who": EVIL, "pid": 1, "since": f"{EVIL}\n\n\n", "what": EVIL})


@pytest.mark.parametrize("error", [
    PmcError(EVIL), Refused(EVIL), NodeDown(EVIL), StepFailed(EVIL), InDoubt("pm-1", f"{EVIL} x", f"{EVIL}\n{EVIL}"),
    CommandFailed("pm-1", f"{EVIL} x\nsecond", 1, f"first\n{EVIL}"), CommandFailed("pm-1", "x", 1, f"{EVIL * 10**4}"),
    CommandFailed("pm-1", "", 1, "a\x1cb\u2028c\x85d"),
])  # fmt: skip
def test_errors_at_the_end(error: PmcError) -> None:
    """invoke prints `message`."""
    for text in (str(error), str(error.message)):
        fit(text, lines=1)
        assert len(text) < 2 * MOST


@pytest.mark.parametrize("kind", ["held", "busy", "since"])
@pytest.mark.parametrize("said", [HOLDER, "[" * 100_000, '{"pid": 1e999, "who": 1, "since": 1, "what": 1}', '{"pid":'
                                  + "9" * 5000 + "}", "[]", "null", "\0", ""])  # fmt: skip
def test_who_holds_a_lock(kind: str, said: str) -> None:
    refusal = lock_files.parse(f"{kind} {'web' if said != HOLDER else EVIL.replace(' ', '')} {said}")
    assert refusal is not None
    fit(lock_files.told(refusal, "pm-1"), lines=1)
    assert len(lock_files.told(refusal, "pm-1")) < 3 * MOST


def test_what_is_asked_before_something_is_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("web\n"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    base.confirm(f"the disk of web becomes that of {EVIL}", "web")
    _, err = capsys.readouterr()
    fit(err, lines=1)
    assert err.endswith("Type web to go on:\n")


def test_the_audit_log_can_be_read_on_a_terminal(tmp_path: Path) -> None:
    record = audit.Record(str(tmp_path / "log"), EVIL)
    record.begin(step(EVIL))
    record.write([step(EVIL)], PmcError("x"))
    text = (tmp_path / "log").read_text()
    fit(text, lines=2)
    assert [json.loads(line)["what"] for line in text.splitlines()] == [EVIL] * 2


@pytest.mark.parametrize(
    ("started", "said"), [("/usr/bin/pmc", "pmc"), ("pmc", "pmc"), ("/x/.venv/bin/fab", "fab"), ("", "fab")]
)
def test_advice_begins_with_the_program_that_was_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], started: str, said: str
) -> None:
    """Who installed pmc has no fabfile, so `fab vm.repair web` would be no advice."""
    monkeypatch.setattr(sys, "argv", [started])
    text = "web: half made; fab vm.rm web, then fab pm.init all; prefab vm.x and fab --list stay"
    right = f"web: half made; {said} vm.rm web, then {said} pm.init all; prefab vm.x and fab --list stay"
    output.note(text)
    output.show(text)
    assert (str(Refused(text)), *capsys.readouterr()) == (right, f"{right}\n", f"{right}\n")


def test_there_is_one_next_also_where_an_error_is_told_in_another_ones_words() -> None:
    inner = Refused("pm-2: libvirt hangs", next="fab pm.init pm-2")
    outer = str(Refused(f"web was not closed: {inner}", next="fab vm.mv web --cleanup"))
    assert outer.count("Next:") == 1
    assert outer.endswith("web was not closed: pm-2: libvirt hangs. Next: fab vm.mv web --cleanup")
