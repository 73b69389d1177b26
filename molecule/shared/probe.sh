#!/bin/bash
# Prints the lines for containers.conf.d without which podman starts no container here; nothing when all is well.
# Usage: probe.sh IMAGE
# What goes wrong on small virtual machines: podman asks for higher limits than the machine may give, and crun
# does not start on mixed control groups.
limits="nofile=$(ulimit -Hn):$(ulimit -Hn) nproc=8192:8192"

attempt() { # RUNTIME LIMITS
  local flags=()
  for limit in $2; do flags+=(--ulimit "$limit"); done
  podman ${1:+--runtime "$1"} run --rm --network none --systemd always --cap-add SYS_PTRACE,SYS_NICE \
    "${flags[@]}" "$image" true
}

image=$1
for runtime in "" runc; do
  for wanted in "" "$limits"; do
    errors=$(attempt "$runtime" "$wanted" 2>&1) || continue
    [ -z "$wanted" ] || printf '[containers]\ndefault_ulimits = ["%s"]\n' "${wanted// /\", \"}"
    [ -z "$runtime" ] || printf '[engine]\nruntime = "%s"\n' "$runtime"
    exit 0
  done
done
echo "podman starts no container here: $errors" >&2
exit 1
