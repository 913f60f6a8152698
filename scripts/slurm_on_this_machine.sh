#!/usr/bin/env bash
# A real Slurm of two virtual nodes, n1 and n2, on this machine, to test with:
#   bash scripts/slurm_on_this_machine.sh start|stop [FOLDER]
#   bash scripts/slurm_on_this_machine.sh kill|revive NODE|controller [FOLDER]
# It needs root, unshare and Debian's or Ubuntu's packages: apt-get install slurm-wlm munge. Everything is in FOLDER (default:
# /tmp/mocoop-slurm): after `export SLURM_CONF=FOLDER/slurm.conf` the commands sbatch, squeue, scancel ... talk to it. It has
# the partitions `low` (the default; preempted without notice, and queued again), `kind` (preempted with 30 s of notice) and
# `high`, which preempts both. Each node has one core, a host name, and FOLDER/scratch as a disk of its own. `kill n1` is a
# loss of power: the node is gone with all that runs there.
set -euo pipefail

# fail MESSAGE: one message, exit code 1.
fail() {
    echo "Error: $*" >&2
    exit 1
}

# write_config: slurm.conf, with limits that are short enough for tests.
write_config() {
    cat > "$FOLDER/slurm.conf" <<CONF
ClusterName=mocoop-test
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$FOLDER/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool.%n
SlurmctldPidFile=$FOLDER/controller.pid
SlurmdPidFile=$FOLDER/%n.pid
SlurmctldLogFile=$FOLDER/controller.log
SlurmdLogFile=$FOLDER/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
JobRequeue=1
SlurmctldTimeout=20
SlurmdTimeout=20
InactiveLimit=30
KillWait=5
MinJobAge=600
WaitTime=0
SchedulerParameters=sched_interval=2,bf_interval=5,sched_min_interval=0,batch_sched_delay=1
NodeName=n1 NodeAddr=127.0.0.1 Port=$((PORT + 1)) CPUs=1 RealMemory=8000 State=UNKNOWN
NodeName=n2 NodeAddr=127.0.0.1 Port=$((PORT + 2)) CPUs=1 RealMemory=8000 State=UNKNOWN
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 PreemptMode=REQUEUE State=UP
PartitionName=kind Nodes=n1,n2 PriorityTier=1 PreemptMode=REQUEUE GraceTime=30 State=UP
PartitionName=high Nodes=n1,n2 PriorityTier=9 PreemptMode=OFF State=UP
CONF
}

# revive NODE|controller: start it.
revive() {
    if [[ $1 == controller ]]; then
        slurmctld -f "$FOLDER/slurm.conf" -i
        return
    fi
    mkdir -p "$FOLDER/scratch.$1" "$FOLDER/scratch"
    # Names, processes and mounts of its own: all of the node's processes end with its first one.
    setsid unshare --pid --uts --mount --fork --kill-child --mount-proc bash -c "
        hostname $1
        mount --bind '$FOLDER/scratch.$1' '$FOLDER/scratch'
        exec slurmd -D -N $1 -f '$FOLDER/slurm.conf'" > "$FOLDER/$1.out" 2>&1 &
    echo $! > "$FOLDER/$1.unshare"
}

# kill_part NODE|controller: end it without notice, if it is there.
kill_part() {
    local file=$FOLDER/$1.unshare
    [[ $1 != controller ]] || file=$FOLDER/controller.pid
    [[ ! -e $file ]] || kill -KILL "$(cat "$file")" 2> /dev/null || true
    rm -f "$file"
}

# start: everything, and wait until both nodes take jobs.
start() {
    local program
    for program in slurmctld slurmd munged unshare; do
        command -v $program > /dev/null || fail "$program is not installed: apt-get install slurm-wlm munge util-linux"
    done
    [[ $(id -u) == 0 ]] || fail "this needs root"
    unshare --pid --uts --mount --fork true 2> /dev/null || fail "this machine allows no namespaces (unshare)"
    stop
    mkdir -p "$FOLDER/state"
    dd if=/dev/urandom of="$FOLDER/munge.key" bs=128 count=1 status=none
    chmod 600 "$FOLDER/munge.key"
    munged --force --socket="$FOLDER/munge.socket" --key-file="$FOLDER/munge.key" --pid-file="$FOLDER/munge.pid" \
        --log-file="$FOLDER/munge.log" --seed-file="$FOLDER/munge.seed"
    write_config
    revive controller
    revive n1
    revive n2
    for _ in {1..60}; do
        [[ $(SLURM_CONF=$FOLDER/slurm.conf sinfo --noheader --partition=low --format=%t%D 2> /dev/null) == idle2 ]] && return
        sleep 1
    done
    fail "the nodes did not come up; see the logs in $FOLDER"
}

# stop: end what is there; the folder stays.
stop() {
    kill_part controller
    kill_part n1
    kill_part n2
    [[ ! -e $FOLDER/munge.pid ]] || kill "$(cat "$FOLDER/munge.pid")" 2> /dev/null || true
    rm -rf "$FOLDER/munge.pid" "$FOLDER/state" "$FOLDER"/spool.*
}

PORT=${PORT:-27817}
case ${1:-} in
    start | stop)
        FOLDER=${2:-/tmp/mocoop-slurm}
        mkdir -p "$FOLDER"
        "$1"
        ;;
    kill | revive)
        (($# > 1)) || fail "$1 what? n1, n2 or controller"
        FOLDER=${3:-/tmp/mocoop-slurm}
        if [[ $1 == kill ]]; then kill_part "$2"; else revive "$2"; fi
        ;;
    *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" ;;
esac
