#!/bin/bash
# A real Slurm of several nodes on this one machine: root, no systemd, nothing written to /etc.
#
#   slurm-cluster.sh up [N]          start munged, slurmctld and N slurmd (default 4)
#   slurm-cluster.sh down            stop everything, by pid only
#   slurm-cluster.sh status          pids, nodes, jobs
#   slurm-cluster.sh env             print exports: eval "$(slurm-cluster.sh env)"
#   slurm-cluster.sh crash NODE      the node dies: kill -9 of all its processes (peers see FIN)
#   slurm-cluster.sh poweroff NODE   as crash, but its link goes down first (peers see silence; ns)
#   slurm-cluster.sh start NODE      bring a dead node back: same name, same address
#   slurm-cluster.sh exec NODE CMD   run a command inside a node
#
# CLUSTER_DIR    the one folder with everything of this cluster  (default $TMPDIR/slurm-cluster)
# CLUSTER_MODE   ns: a node is a pid, net, uts and mount namespace with its own host name and
#                    address, so that the death of one pid is the death of the node;
#                plain: all slurmd on the loopback, one port each (needs no namespaces).
#                Default: ns where this user may make namespaces.
# CLUSTER_OWNER  a pid: when that process is gone, however it ended, the cluster goes down
# CLUSTER_GPUS, CLUSTER_CPUS   of each node (default 2 and 2); the GPUs are null devices
set -u
B=${CLUSTER_DIR:-${TMPDIR:-/tmp}/slurm-cluster}
R=$B/run L=$B/log
GPUS=${CLUSTER_GPUS:-2} CPUS=${CLUSTER_CPUS:-2}
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH=/usr/sbin:/sbin:$PATH SLURM_CONF=$B/slurm.conf

die() { echo "slurm-cluster.sh: $*" >&2; exit 1; }
wait_for() { # SECONDS COMMAND: until the command succeeds
  local tries=$(($1 * 20)) i; shift
  for ((i = 0; i < tries; i++)); do "$@" >/dev/null 2>&1 && return 0; sleep 0.05; done
  return 1
}

# --- processes, remembered as pid and start time, so that a re-used pid is never killed
started_at() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
keep() { echo "$2 $(started_at "$2")" >"$R/$1.pid"; }
pid_of() {
  local pid start
  [ -s "$R/$1.pid" ] && read -r pid start <"$R/$1.pid" && [ "$(started_at "$pid")" = "$start" ] && echo "$pid"
}
gone() { [ ! -d "/proc/$1" ] || grep -q '^State:.*Z' "/proc/$1/status" 2>/dev/null; }
stop() { # NAME SECONDS: TERM, then KILL
  local pid
  if pid=$(pid_of "$1"); then
    kill -TERM "$pid" 2>/dev/null
    wait_for "$2" gone "$pid" || { kill -KILL "$pid" 2>/dev/null; wait_for 3 gone "$pid"; }
  fi
  rm -f "$R/$1.pid"
}
with_env() { # pids whose environment has a line matching $1
  local file pid
  for file in /proc/[0-9]*/environ; do
    pid=${file#/proc/}; pid=${pid%/environ}
    [ "$pid" = $$ ] || { tr '\0' '\n' <"$file" | grep -qxE "$1" && echo "$pid"; } 2>/dev/null
  done
}
step_daemons() { # slurmstepd of node $1: they hide their environment, but not their open log
  local link
  for link in /proc/[0-9]*/fd/3; do
    [ "$(readlink "$link" 2>/dev/null)" = "$L/slurmd.$1.log" ] && echo "$link" | cut -d/ -f3
  done
}

# --- which of several clusters of this machine: own network and ports
MODE=$(cat "$R/mode" 2>/dev/null || echo "${CLUSTER_MODE:-}")
INDEX=$(cat "$R/index" 2>/dev/null || echo 0)
bridge() { echo "dcluster$INDEX"; }
veth() { echo "dc${INDEX}$1"; }
network() { echo "10.77.$INDEX"; }
controller_port() { echo $((17000 + INDEX * 40)); }
address() { if [ "$MODE" = ns ]; then echo "$(network).${1#node}"; else echo 127.0.0.1; fi; }
port() { echo $(($(controller_port) + ${1#node})); }
port_is_free() { ! (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

choose_mode() {
  [ -z "$MODE" ] || return 0
  MODE=plain
  if unshare --pid --fork --mount-proc --net --uts --mount true 2>/dev/null \
    && ip link add dcprobe type bridge 2>/dev/null; then
    ip link del dcprobe
    MODE=ns
  fi
}
choose_index() {
  for INDEX in {0..19}; do
    port_is_free "$(controller_port)" || continue
    [ "$MODE" = ns ] || return 0
    ip link add "$(bridge)" type bridge 2>/dev/null || continue # creating it is the reservation
    ip addr add "$(network).254/24" dev "$(bridge)"
    ip link set "$(bridge)" up
    return 0
  done
  die "20 clusters run here already"
}

# --- configuration
write_conf() {
  local n=$1 i host control=127.0.0.1 node gres=""
  host=$(hostname -s)
  [ "$MODE" = ns ] && control=$(network).254
  cat >"$B/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host($control)
SlurmctldPort=$(controller_port)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits for cred_expire before it starts again (default 120 s; below 5 s it is ignored).
AuthInfo=socket=$R/munge.socket,cred_expire=5
StateSaveLocation=$B/state
SlurmdSpoolDir=$B/spool/%n
SlurmctldPidFile=$R/slurmctld.daemon.pid
SlurmdPidFile=$R/slurmd.%n.daemon.pid
SlurmctldLogFile=$L/slurmctld.log
SlurmdLogFile=$L/slurmd.%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$B/jobcomp.txt
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0,sched_min_interval=100000
ReturnToService=2
JobRequeue=1
SlurmdTimeout=6
SlurmctldTimeout=10
BatchStartTimeout=10
MessageTimeout=5
TCPTimeout=2
KillWait=5
MinJobAge=3600
CompleteWait=0
PropagateResourceLimitsExcept=ALL
CONF
  : >"$B/gres.conf"
  : >"$B/cgroup.conf"
  if [ "$GPUS" -gt 0 ]; then
    mkdir -p "$B/dev"
    for ((i = 0; i < GPUS; i++)); do
      [ -e "$B/dev/gpu$i" ] || mknod "$B/dev/gpu$i" c 1 3 || die "no device nodes here: set CLUSTER_GPUS=0"
    done
    echo "GresTypes=gpu" >>"$B/slurm.conf"
    echo "NodeName=node[1-$n] Name=gpu File=$B/dev/gpu[0-$((GPUS - 1))]" >"$B/gres.conf"
    gres="Gres=gpu:$GPUS"
  fi
  echo "hosts: files" >"$B/nsswitch.conf" # a node reaches no name server; do not wait for one
  printf '127.0.0.1 localhost\n%s %s\n' "$control" "$host" >"$B/hosts"
  for ((i = 1; i <= n; i++)); do
    node=node$i
    [ "$MODE" = ns ] && host=$node
    echo "$(address $node) $node" >>"$B/hosts"
    echo "NodeName=$node NodeHostname=$host NodeAddr=$(address $node) Port=$(port $node)" \
      "CPUs=$CPUS RealMemory=2000 $gres State=UNKNOWN" >>"$B/slurm.conf"
  done
  echo "PartitionName=main Nodes=node[1-$n] Default=YES MaxTime=INFINITE State=UP" >>"$B/slurm.conf"
}

# --- nodes
init_of() { # the child of unshare that is pid 1 inside and has become bash
  local child
  # shellcheck disable=SC2013
  for child in $(cat "/proc/$1/task/$1/children" 2>/dev/null); do
    grep -qsE '^NSpid:.*[[:space:]]1$' "/proc/$child/status" \
      && grep -qsx bash "/proc/$child/comm" && { echo "$child"; return 0; }
  done
  return 1
}
start_node() {
  local node=$1 unshared init
  pid_of "$node" >/dev/null && die "$node is up already"
  mkdir -p "$B/spool/$node"
  if [ "$MODE" = plain ]; then
    CLUSTER_NODE="$B/$node" setsid slurmd -D -N "$node" -f "$SLURM_CONF" </dev/null >"$L/$node.out" 2>&1 &
    keep "$node" $!
    return
  fi
  # pid 1 of the namespace is this bash: it reaps orphans, and with it the whole node dies.
  # shellcheck disable=SC2016
  CLUSTER_NODE="$B/$node" setsid unshare --pid --fork --kill-child --mount-proc --uts --net --mount \
    bash -c '
      hostname "$1"; mount --bind "$2/hosts" /etc/hosts; mount --bind "$2/nsswitch.conf" /etc/nsswitch.conf; ip link set lo up
      for ((i = 0; i < 500; i++)); do [ -e /proc/sys/net/ipv4/conf/eth0 ] && break; sleep 0.02; done
      ip addr add "$3/24" dev eth0; ip link set eth0 up
      slurmd -D -N "$1" -f "$SLURM_CONF" &
      while :; do wait; sleep 1; done' node "$node" "$B" "$(address "$node")" \
    </dev/null >"$L/$node.out" 2>&1 &
  unshared=$!
  keep "$node.unshare" "$unshared"
  wait_for 10 init_of "$unshared" || die "$node did not start, see $L/$node.out"
  init=$(init_of "$unshared")
  keep "$node" "$init"
  ip link del "$(veth "$node")" 2>/dev/null
  ip link add "$(veth "$node")" type veth peer name eth0 netns "$init" || die "no link for $node"
  ip link set "$(veth "$node")" master "$(bridge)" up
}
kill_node() {
  local node=$1 pid all
  pid=$(pid_of "$node") || die "$node is not up"
  if [ "$MODE" = ns ]; then
    kill -KILL "$pid" # the kernel kills the rest of the namespace
  else
    # Stopped first: nobody shall live long enough to report another's death.
    kill -STOP "$pid"
    all="$(step_daemons "$node") $(with_env "(CLUSTER_NODE=$B/$node|SLURMD_NODENAME=$node)")"
    # shellcheck disable=SC2086
    kill -STOP $all 2>/dev/null
    # shellcheck disable=SC2086
    kill -KILL "$pid" $all 2>/dev/null
  fi
  wait_for 3 gone "$pid"
  rm -f "$R/$node.pid" "$R/$node.unshare.pid"
}

# --- the cluster
guard() { # take the cluster down when its owner is gone
  # shellcheck disable=SC2016
  setsid bash -c 'while kill -0 "$1" 2>/dev/null && [ -d "$2" ]; do sleep 1; done; exec "$3" down' \
    guard "$1" "$R" "$HERE/slurm-cluster.sh" </dev/null >"$L/guard.out" 2>&1 &
}
nodes_idle() { [ "$(sinfo -h -N -o %T | grep -cx idle)" = "$1" ]; }
no_jobs() { [ -z "$(squeue -h)" ]; }

up() {
  local n=${1:-4} i
  pid_of slurmctld >/dev/null && die "already up in $B"
  command -v slurmctld slurmd munged ip unshare >/dev/null \
    || "$HERE/install.sh" slurmctld slurmd slurm-client munge iproute2 util-linux || exit
  mkdir -p "$R" "$L" "$B/state" "$B/spool"
  chmod 755 "$B" "$R" "$L" # munged refuses a folder that others may write
  choose_mode
  choose_index
  echo "$MODE" >"$R/mode"; echo "$INDEX" >"$R/index"; echo "$n" >"$R/n"
  write_conf "$n"
  [ -s "$B/munge.key" ] || (umask 077 && head -c 128 /dev/urandom >"$B/munge.key")
  setsid munged --foreground --force --key-file="$B/munge.key" --socket="$R/munge.socket" \
    --pid-file="$R/munged.daemon.pid" --log-file="$L/munged.log" --seed-file="$B/munge.seed" \
    </dev/null >"$L/munged.out" 2>&1 &
  keep munged $!
  wait_for 5 munge -S "$R/munge.socket" -n || die "munged did not come up, see $L/munged.out"
  setsid slurmctld -D -i -f "$SLURM_CONF" </dev/null >"$L/slurmctld.out" 2>&1 &
  keep slurmctld $!
  for ((i = 1; i <= n; i++)); do start_node "node$i"; done
  [ -z "${CLUSTER_OWNER:-}" ] || guard "$CLUSTER_OWNER"
  wait_for 20 nodes_idle "$n" || { status; die "not all nodes came up, see $L"; }
  echo "up: $n nodes, mode $MODE"
}

down() {
  [ -d "$R" ] || { echo down; return; }
  local n i left
  n=$(cat "$R/n" 2>/dev/null || echo 0)
  if [ "$MODE" = plain ] && pid_of slurmctld >/dev/null; then
    timeout 5 scancel --user="$(id -un)"
    wait_for 3 no_jobs
  fi
  for ((i = 1; i <= n; i++)); do
    pid_of "node$i" >/dev/null && kill_node "node$i"
    stop "node$i.unshare" 1
    [ "$MODE" = ns ] && ip link del "$(veth "node$i")" 2>/dev/null
  done
  stop slurmctld 5
  stop munged 3
  left=$(with_env "CLUSTER_NODE=$B/node[0-9]+")
  # shellcheck disable=SC2086
  [ -z "$left" ] || kill -KILL $left 2>/dev/null
  [ "$MODE" = ns ] && ip link del "$(bridge)" 2>/dev/null
  rm -rf "$R" "$B/state" "$B/spool" # the next `up` starts with job 1; logs stay
  echo down
}

status() {
  local file name
  pid_of slurmctld >/dev/null || { echo down; return 3; }
  for file in "$R"/*.pid; do
    name=$(basename "$file" .pid)
    case $name in *.daemon | *.unshare) continue ;; esac
    printf '%-10s %s\n' "$name" "$(pid_of "$name" || echo dead)"
  done
  timeout 10 sinfo -N -o '%N %T %C %G %E'
  timeout 10 squeue -o '%i %j %T %r %N %M'
}

command=${1:-status}
[ $# -eq 0 ] || shift
case $command in
  up) up "$@" ;;
  down) down ;;
  status) status ;;
  env) echo "export SLURM_CONF=$B/slurm.conf PATH=/usr/sbin:/sbin:\$PATH" ;;
  crash) kill_node "$1" ;;
  poweroff)
    [ "$MODE" = ns ] || die "poweroff needs mode ns"
    ip link set "$(veth "$1")" down
    kill_node "$1" ;;
  start) start_node "$1" ;;
  exec)
    node=$1; shift
    init=$(pid_of "$node") || die "$node is not up"
    [ "$MODE" = ns ] || exec "$@"
    exec nsenter -t "$init" -p -n -u -m "$@" ;;
  *) die "unknown command $command" ;;
esac
