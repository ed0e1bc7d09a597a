# Runs as wakevirt-host. Each `no` must fail, each `yes` must succeed. Prints those that do not. The unit does not allow
# pipes, which $(…) would need.
log=/tmp/attempt.$$
attempt() {
    local expected=$1 output= status=0
    shift
    timeout 20 "$@" >$log 2>&1 </dev/null || status=$?
    read -r -d '' output <$log
    case $expected in
    no) [ $status -ne 0 ] ;;
    yes) [ $status -eq 0 ] ;;
    esac || echo "UNEXPECTED $*: exit $status, ${output//$'\n'/ }"
}
no() { attempt no "$@"; }
yes() { attempt yes "$@"; }
writes() { no sh -c 'echo "$1" >"$2"' write "$2" "$1"; }
systemd=(busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager)
export SYSTEMD_PAGER= SYSTEMD_COLORS=0

# What the service needs.
for unit in system.slice user.slice init.scope machine.slice; do
    yes systemctl --no-ask-password set-property --runtime $unit CPUWeight=100
done
for unit in wakevirt-prepare@x.target wakevirt-domain@x.target; do
    yes systemctl --no-ask-password start $unit
    yes systemctl --no-ask-password stop $unit
done
yes systemctl --no-ask-password start wakevirt-drop-ins.service
yes systemctl --no-ask-password stop wakevirt-drop-ins.service
yes sh -c 'echo 0 >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages'
yes sh -c 'echo 3 >/sys/devices/virtual/workqueue/cpumask'
yes sh -c 'echo 1 >/sys/devices/system/node/node0/compact'

# Other units, and other verbs.
for unit in libvirtd.service dbus.service systemd-logind.service wakevirt-actor.service wakevirt-host.service \
    wakevirt-nas@x.service wakevirt-suspend.service reboot.target rescue.target multi-user.target \
    wakevirt-prepare@x.service wakevirt-domain@x.service wakevirt-monitor@x.target xwakevirt-prepare@x.target; do
    for verb in start stop restart reload; do
        no systemctl --no-ask-password $verb $unit
    done
done
for verb in restart try-restart kill isolate freeze reset-failed clean; do
    no systemctl --no-ask-password $verb wakevirt-prepare@x.target
done
no systemctl --no-ask-password restart wakevirt-drop-ins.service
for unit in libvirtd.service dbus.service -.slice system-getty.slice machine-other.scope \
    wakevirt-prepare@x.target user-0.slice; do
    no systemctl --no-ask-password set-property --runtime $unit CPUWeight=200
done
no systemctl --no-ask-password kill init.scope
no systemctl --no-ask-password stop system.slice
no systemctl --no-ask-password stop machine.slice

# Transient units, also with the name of a unit that it can start.
for name in pwned.service wakevirt-monitor@pwned.service; do
    no systemd-run --no-ask-password --unit=$name touch /var/lib/pwned/file
    no "${systemd[@]}" StartTransientUnit 'ssa(sv)a(sa(sv))' $name replace 1 ExecStart 'a(sasb)' 1 /bin/touch 2 touch \
        /var/lib/pwned/file false 0
done
no "${systemd[@]}" StartTransientUnit 'ssa(sv)a(sa(sv))' machine-qemu-pwned.scope replace 1 PIDs au 1 $$ 0
no "${systemd[@]}" StartTransientUnit 'ssa(sv)a(sa(sv))' wakevirt-domain@pwned.target replace 0 0
no "${systemd[@]}" AttachProcessesToUnit ssau machine.slice '' 1 $$
no systemd-run --no-ask-password --scope --unit=pwned true
no systemd-run --no-ask-password --on-active=1 --unit=pwned true

# Unit files and the service manager.
no systemctl --no-ask-password revert system.slice
no systemctl --no-ask-password enable wakevirt-actor.service
no systemctl --no-ask-password mask --runtime libvirtd.service
no systemctl --no-ask-password link /tmp/pwned.service
no systemctl --no-ask-password set-default rescue.target
no systemctl --no-ask-password daemon-reload
no systemctl --no-ask-password daemon-reexec
no systemctl --no-ask-password set-environment PWNED=1
no systemctl --no-ask-password log-level debug
no systemctl --no-ask-password poweroff
no busctl call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager PowerOff b false
no busctl call org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager SetUserLinger ubb 0 true false
no systemd-inhibit --what=sleep --mode=block true
no virsh --connect qemu:///system list
no virsh --connect qemu:///system list --all --no-autostart
no busctl call org.wakevirt.Actor1 /org/wakevirt/Actor1 org.wakevirt.Actor1 Reload

# Files. The real sysfs is below the files that replace a part of it.
writes /etc/wakevirt/host.toml x
writes /etc/wakevirt/host.d/pwned.toml x
writes /etc/pwned x
writes /etc/systemd/system/pwned.service x
writes /run/systemd/system/pwned.service x
writes /run/systemd/system.control/pwned x
writes /run/systemd/system.control/system.slice.d/50-AllowedCPUs.conf x
writes /run/wakevirt-drop-ins/list x
writes /run/pwned x
writes /run/wakevirt-host/pwned x
writes /run/libvirt/qemu/pwned.pid x
writes /usr/bin/pwned x
writes /var/lib/pwned/file x
writes /proc/sys/vm/nr_hugepages 1
writes /proc/sys/kernel/core_pattern x
writes /proc/sysrq-trigger h
writes /sys/kernel/mm/transparent_hugepage/enabled never
writes /sys/devices/system/cpu/cpu1/online 0
writes /sys/fs/cgroup/system.slice/cgroup.procs 1
writes /sys/fs/cgroup/cgroup.subtree_control +pids
writes /sys/power/state mem
no chmod 666 /sys/devices/virtual/workqueue/cpumask
no chown wakevirt-host /sys/devices/virtual/workqueue/cpumask
no chmod 777 /run/wakevirt-host
no mv /run/wakevirt-host/spool /run/wakevirt-host/pwned
no mount --bind /tmp /etc
no cat /etc/shadow
no kill -0 1
no python3 -c 'import socket; socket.socket(socket.AF_PACKET, socket.SOCK_RAW)'
no python3 -c 'import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect("/run/wakevirt-host/socket")'

# Only the unit denies these.
if [[ ${1-} == restricted ]]; then
    no python3 -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)'
    no python3 -c 'import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)'
    no sh -c 'echo x >/dev/mem'
    no unshare --user --map-root-user true
    no su -c true
    writes /run/lock/pwned x
fi
echo "all attempts were made"
