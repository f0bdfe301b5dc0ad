"""Quoting, printing and framing, held against the real sh, bash and coreutils."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pmc.command import Answer, Command, bash, command, frame, unframe

MARK = "pmc-0123456789abcdef"
# A program (not the shell's builtin) that prints its arguments so that each can be told from the next.
SHOW = ("env", "printf", "%s\\0")
NASTY = [
    "; rm -rf /", "$(id)", "`id`", "a'b", 'a"b', "a\\", "\\n", "a\nb\n", "\n", "", " ", "-n", "--", "*", "~", "!x",
    "a&b", "ä€😀", "\u2028", "\x01\x7f\r", "<<EOF", "EOF", "#", "${HOME}", "x" * 20_000,
]  # fmt: skip
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200)


def shell(script: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["sh", "-s"], input=script.encode(), capture_output=True, timeout=30, check=False)


def asked(*commands: Command) -> list[Answer]:
    """What the commands answer when they are framed and sh runs them."""
    script = frame(commands, MARK)
    got = subprocess.run(["sh", "-s"], input=script, capture_output=True, text=True, timeout=30, check=False)
    return unframe(got.stdout, got.stderr, MARK, len(commands))


# -- printing --


def test_a_command_prints_as_a_line_to_paste() -> None:
    assert str(command("lvremove", "--yes", "vg/my vm")) == "lvremove --yes 'vg/my vm'"


def test_stdin_prints_as_a_here_document_that_gives_the_same_text() -> None:
    shown = str(command("cat", stdin="a $HOME\n'b'\n\n"))
    assert shown == "cat <<'EOF'\na $HOME\n'b'\n\nEOF"
    assert shell(shown).stdout == b"a $HOME\n'b'\n\n"


def test_stdin_cannot_end_its_here_document() -> None:
    text = "a\nEOF\necho no\nEOF_\n"
    assert shell(str(command("cat", stdin=text))).stdout == text.encode()


def test_a_secret_is_never_shown() -> None:
    write = command("install", "/dev/stdin", "f", stdin='secret "hunter2" hunter2;', secrets=("hunter2",))
    assert str(write) == "install /dev/stdin f <<'EOF'\nsecret \"***\" ***;\nEOF"
    for shown in (repr(write), f"{write}", f"{write!r:>1}", f"{[write]}"):
        assert "hunter2" not in shown
    assert write.stdin is not None
    assert "hunter2" in write.stdin


@given(st.lists(TEXT, min_size=1, max_size=6))
@example(NASTY)
@settings(max_examples=40, deadline=None)
def test_any_argument_arrives_unchanged(words: list[str]) -> None:
    assert shell(str(command(*SHOW, *words))).stdout == b"".join(word.encode() + b"\0" for word in words)


@given(st.lists(TEXT, min_size=1, max_size=6))
@example(NASTY)
@settings(max_examples=40, deadline=None)
def test_any_argument_of_a_bash_script_arrives_unchanged(words: list[str]) -> None:
    got = shell(str(bash('printf "%s\\0" "$@"', *words)))
    assert got.stdout == b"".join(word.encode() + b"\0" for word in words)


def test_a_pipeline_fails_when_its_reader_fails() -> None:
    assert shell(str(bash("false | cat"))).returncode == 1
    assert shell(str(bash('echo "$1"'))).returncode != 0, "an argument that was forgotten"


# -- framing --


def test_each_command_gets_its_own_answer() -> None:
    first, second, third = asked(
        command("printf", "a\nb\n"), bash("echo out; echo err >&2; exit 7"), command("cat", stdin="$HOME 'x'\n\\n")
    )
    assert first == Answer(0, "a\nb\n", "")
    assert second == Answer(7, "out\n", "err\n")
    assert third == Answer(0, "$HOME 'x'\n\\n\n", "")


def test_output_without_a_final_newline() -> None:
    answers = asked(command("printf", "a"), command("printf", ""), command("printf", "b\n\n"), command("printf", "c"))
    assert [each.stdout for each in answers] == ["a", "", "b\n\n", "c"]
    errors = asked(bash("printf one >&2"), bash("printf 'two\\n' >&2"), bash(":"), bash("printf three >&2; exit 3"))
    assert [each.stderr for each in errors] == ["one", "two\n", "", "three"]


def test_a_missing_tool_is_127_with_its_name() -> None:
    missing, there = asked(command("no-such-tool", "x"), command("true"))
    assert missing.exit == 127
    assert "no-such-tool" in missing.stderr
    assert there.exit == 0


def test_a_command_that_reads_stdin_does_not_eat_the_next_one() -> None:
    long = "x" * 50_000  # more than a shell reads of its script at once
    assert [each.stdout for each in asked(command("cat"), command("echo", long))] == ["", f"{long}\n"]


def test_output_cut_short_is_no_answer() -> None:
    commands = [command("echo", "a"), command("echo", "b"), command("printf", "")]
    whole = shell(frame(commands, MARK)).stdout.decode()
    assert [each.stdout for each in unframe(whole, "", MARK, 3)] == ["a\n", "b\n", ""]
    for length in range(len(whole)):
        with pytest.raises(ValueError, match="incomplete"):
            unframe(whole[:length], "", MARK, 3)


def test_what_a_login_script_prints_is_not_an_answer() -> None:
    whole = shell(frame([command("echo", "a")], MARK)).stdout.decode()
    assert unframe(f"Welcome!\n{whole}", "", MARK, 1)[0].stdout == "a\n"
    with pytest.raises(ValueError, match="1 of 1"):
        unframe("Welcome!\n", "This account is not available", MARK, 1)


@given(st.lists(st.tuples(TEXT, st.integers(0, 123)), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_any_output_comes_back(outputs: list[tuple[str, int]]) -> None:
    commands = [bash('printf %s "$1"; printf %s "$1" >&2; exit "$2"', text, str(exit)) for text, exit in outputs]
    script = frame(commands, MARK)
    got = subprocess.run(["sh", "-s"], input=script.encode(), capture_output=True, timeout=30, check=False)
    answers = unframe(got.stdout.decode(), got.stderr.decode(), MARK, len(commands))
    assert answers == [Answer(exit, text, text) for text, exit in outputs]
