"""Another peer for a DRBD 8.4 resource that is in use. Pure.

A volume made for one peer has one bitmap of what that peer lacks. As soon as another peer is copied to, the bits of
what it got are cleared, whether the former peer has that or not. And 8.4 may take the former peer, when it comes back,
for one that never heard of the new copy (drbd_uuid_compare, rule 71: "The last P_SYNC_UUID did not get though"), and
sync it by what is left of the bitmap: it would call itself UpToDate and lack writes. Hence `invalidate-remote`, which
sets all bits, before a former peer is let in again.

DRBD 9 keeps a bitmap for each peer and binds it to a node id; nothing here was made for it.
"""

from __future__ import annotations

from pmc import drbd
from pmc.command import Command, bash, command, operation, whole

# The file $1, if it is there, holds one resource.
_ALONE = (
    'n=$(grep -cE "^[[:space:]]*resource[[:space:]]" "$1" 2>/dev/null) || :; '
    '[ "${n:-0}" -le 1 ] || { echo "$1 holds other resources too" >&2; exit 1; }; '
)

# Arguments of both: the resource's file and name.
_BACK = (
    '[ -e "$1.old" ] || { echo "$1.old is gone, so the change is complete" >&2; exit 1; }; '
    'r=$(drbdsetup show "$2"); '
    "p=$(sed -n '/_remote_host/,/}/s/.*address[[:space:]]*\\(.*\\);.*/\\1/p' <<<\"$r\"); "
    'case $r in *_remote_host*) [ -n "$p" ];; esac; '
    'if [ -z "$p" ] || ! grep -F "address $p;" "$1.old" >/dev/null; then '
    '[ -z "$p" ] || drbdadm disconnect --force "$2"; '
    '[ "$(grep -c "^ *on " "$1.old")" = 1 ] || drbdadm invalidate-remote "$2"; fi; '
    'mv "$1.old" "$1"; [ "$(grep -c "^ *on " "$1")" = 1 ] || drbdadm adjust "$2"'
)


@operation
def switch(name: str, text: str, secret: str) -> Command:
    """To the peer of this resource file, in place of the one that the kernel has; the VM writes on. The file is
    replaced all at once, mode 600; the one before it is kept as NAME.res.old, which drbdadm does not read. What fails
    by half is taken back."""
    script = (
        f'{_ALONE}umask 077; cat >"$1.new"; {whole("$1.new")}; '
        'sync "$1.new"; ln -f "$1" "$1.old"; mv "$1.new" "$1"; sync "${1%/*}"; '
        f'drbdadm adjust "$2" || {{ s=$?; {_BACK}; exit $s; }}'
    )
    return bash(script, drbd.path(name), name, stdin=text, secrets=(secret,))


@operation
def switch_back(name: str) -> Command:
    """To the file that was kept and its peer. When that was let go already, it is first marked as lacking everything;
    it is not let in when that fails."""
    return bash(_BACK, drbd.path(name), name)


@operation
def adjust(name: str) -> Command:
    """The kernel's peer is the one that the file names."""
    return command("drbdadm", "adjust", name)


@operation
def file_names(name: str, host: str) -> Command:
    """Succeeds when the file has this host."""
    return bash('grep -Fq -e "on $2 {" -e "on \\"$2\\" {" "$1"', drbd.path(name), host)


@operation
def forget_files(name: str) -> Command:
    """With what a change of peer that was interrupted left beside it: all hold a secret. It is looked at again."""
    return bash(f'{_ALONE}rm -f "$1" "$1.old" "$1.new"', drbd.path(name))


@operation
def forget_kept(name: str) -> Command:
    return bash('rm -f "$1.old" "$1.new"', drbd.path(name))


@operation
def copied(name: str, away: float, still: float) -> Command:
    """Waits on the node until the peer has all; says how many bytes are in sync as dd does. Fails when the peer is
    away or the copy stands still for longer than so many seconds, or when this side's own disk is lost."""
    script = (
        'n=$1; seen=$SECONDS; moved=$SECONDS; last=; say() { echo "$*" >&2; exit 1; }; '
        'while :; do s=$(drbdsetup events2 --now --statistics "$n"); '
        "case $s in *' disk:UpToDate '*) ;; *) say \"this side's own disk is not UpToDate any more\";; esac; "
        "case $s in *connection:Connected*) seen=$SECONDS;; esac; "
        "case $s in *connection:Connected*peer-disk:UpToDate*) exit 0;; esac; "
        "size=${s#* size:}; size=${size%% *}; left=${s#* out-of-sync:}; left=${left%% *}; "
        '[ "$left" = "$last" ] || { moved=$SECONDS; last=$left; echo "$(((size - left) * 1024)) bytes" >&2; }; '
        '[ $((SECONDS - seen)) -lt "$2" ] || say "the peer is away since $2 s; does the link between the nodes work?"; '
        '[ $((SECONDS - moved)) -lt "$3" ] || say "the copy stands still since $3 s, $left KiB before its end; '
        'journalctl -k on both nodes tells why"; sleep 1; done'
    )
    return bash(script, name, f"{away:.0f}", f"{still:.0f}", long=True)
