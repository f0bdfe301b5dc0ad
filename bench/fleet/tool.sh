#!/bin/sh
# The tools of a simulated node, each a link to this file, first in the PATH of its ssh sessions. Which node it is, is
# told by the address that the session came in on. It must cost little: what is measured is pmc and ssh.
address=${SSH_CONNECTION% *}
here=$FLEET/nodes/${address##* }

# The real shell runs pmc's own script; only the paths in it are the node's.
with_own_paths() {
    for argument; do
        shift
        for path in /sys/module/drbd /etc/drbd.d /etc/libvirt; do
            rest=$argument argument=
            while :; do
                case $rest in
                *"$path"*) argument=$argument${rest%%"$path"*}$here$path rest=${rest#*"$path"} ;;
                *) break ;;
                esac
            done
            argument=$argument$rest
        done
        set -- "$@" "$argument"
    done
    exec /bin/bash "$@"
}

case "${0##*/} $*" in
"bash "*) with_own_paths "$@" ;;
"uname -n")
    if [ -e "$here/delay" ]; then
        echo $$ >>"$here/pids"
        read -r seconds <"$here/delay"
        sleep "$seconds" </dev/null
    fi
    file=hostname
    ;;
"cat /proc/meminfo") file=meminfo ;;
"cat /sys/module/drbd/version") file=sys/module/drbd/version ;;
"cat "*) exec /bin/cat "$@" ;;
"virsh "*" domstats "*) file=domstats ;;
"drbdsetup events2 "*) file=events2 ;;
"drbdsetup show") file=show ;;
"ls -a /var/lib/libvirt/qemu/save") file=save ;;
"lvm fullreport "*) file=fullreport ;;
"ss "*) file=ss ;;
*)
    echo "${0##*/} $*: the simulated node has no such answer" >&2
    exit 127
    ;;
esac
exec /bin/cat "$here/$file"
