# A Redis and a NATS server of one's own for scripts that start coretexd. Sourced, not
# run: whoever does it calls `backends_start FOLDER` and, in the end, `backends_stop`.
#
#   STORE   embedded (as without it), redis: one is started, or the URL of one that runs
#   BUS     inproc (as without it), nats: one is started, or the URLs of such that run
#
# What is started listens on a free port of this machine alone, keeps its files in
# FOLDER/redis and FOLDER/nats, and is in a process group of its own: Ctrl-C is for the
# script, which stops coretexd before what that stands on.

PATH=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.tools/bin:$PATH
# What coretexd has to be told.
backend_flags=()
redis_pid= nats_pid= redis_url= nats_url=

backends_die() {
  printf '%s: error: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# Whether any server is behind store or bus.
backends_wanted() { [[ ${STORE:-embedded} != embedded || ${BUS:-inproc} != inproc ]]; }

backends_start() {
  local folder=$1
  backend_flags=()
  case ${STORE:-embedded} in
    embedded) ;;
    redis)
      redis_start "$folder/redis"
      backend_flags+=(--store "$redis_url")
      ;;
    redis://* | rediss://* | redis+unix://*) backend_flags+=(--store "$STORE") ;;
    *) backends_die "STORE is embedded, redis or the URL of a Redis server, not $STORE" ;;
  esac
  case ${BUS:-inproc} in
    inproc) ;;
    nats)
      nats_start "$folder/nats"
      backend_flags+=(--bus "$nats_url")
      ;;
    nats://* | tls://*) backend_flags+=(--bus "$BUS") ;;
    *) backends_die "BUS is inproc, nats or the URL of a NATS server, not $BUS" ;;
  esac
}

# The bus first: what it rings for is in the store.
backends_stop() {
  local pid
  for pid in $nats_pid $redis_pid; do
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  redis_pid= nats_pid=
}

# Runs a command in the background and in a process group of its own; its id is in $!.
backends_run() {
  set -m
  "$@" </dev/null >/dev/null 2>&1 &
  set +m
}

redis_start() {
  local folder=$1 try look port
  command -v redis-server >/dev/null || backends_die "redis-server is missing, run: scripts/setup backends"
  mkdir -p "$folder"
  # Two servers would spoil one append-only file. The server inherits the lock.
  exec 8>"$folder/lock"
  flock -n 8 || backends_die "a Redis server runs on $folder already"
  for try in {1..20}; do
    port=$((20000 + RANDOM % 20000))
    backends_run redis-server --bind 127.0.0.1 --port "$port" --dir "$folder" --save '' \
      --appendonly yes --appendfsync everysec --maxmemory-policy noeviction --logfile log
    redis_pid=$!
    for look in {1..600}; do
      # One that finds its port taken ends.
      kill -0 "$redis_pid" 2>/dev/null || break
      if redis_answers "$port" "$redis_pid"; then
        exec 8>&-
        redis_url=redis://127.0.0.1:$port
        return
      fi
      sleep 0.05
    done
    kill "$redis_pid" 2>/dev/null || true
    wait "$redis_pid" 2>/dev/null || true
    redis_pid=
  done
  tail -n 20 "$folder/log" >&2
  backends_die "redis-server does not start"
}

# Whether the server at PORT has its data loaded and is the process PID, not somebody else's.
redis_answers() {
  (
    exec 7<>"/dev/tcp/127.0.0.1/$1" || exit 1
    printf 'INFO\r\nQUIT\r\n' >&7
    ours= loaded=
    while IFS= read -r -t 2 line <&7; do
      case ${line%$'\r'} in
        "process_id:$2") ours=1 ;;
        loading:0) loaded=1 ;;
      esac
    done
    [[ -n $ours && -n $loaded ]]
  ) 2>/dev/null
}

nats_start() {
  local folder=$1 look ports
  command -v nats-server >/dev/null || backends_die "nats-server is missing, run: scripts/setup backends"
  mkdir -p "$folder"
  rm -f "$folder"/*.ports
  backends_run nats-server --addr 127.0.0.1 --port -1 --ports_file_dir "$folder" \
    --log "$folder/log"
  nats_pid=$!
  ports=$folder/nats-server_$nats_pid.ports
  for look in {1..200}; do
    kill -0 "$nats_pid" 2>/dev/null || break
    if [[ -r $ports && $(<"$ports") =~ nats://127\.0\.0\.1:[0-9]+ ]]; then
      nats_url=${BASH_REMATCH[0]}
      return
    fi
    sleep 0.05
  done
  tail -n 20 "$folder/log" >&2
  backends_die "nats-server does not start"
}
