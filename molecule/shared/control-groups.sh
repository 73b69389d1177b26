#!/bin/bash
# Prints the control groups by which Slurm in a container here can confine the memory of a job: v1 or none,
# and after it the options that podman needs for them. Slurm on version 2 in a container has not been tried.
# Usage: control-groups.sh IMAGE
try='
group=/sys/fs/cgroup/memory/try
mount -o remount,bind,rw /sys/fs/cgroup/memory && mkdir $group && rmdir $group'

for options in "--cap-add SYS_ADMIN" "--cap-add SYS_ADMIN --security-opt apparmor=unconfined"; do
  # shellcheck disable=SC2086
  podman run --rm --network none --systemd always $options "$1" sh -c "$try" >/dev/null 2>&1 || continue
  echo "v1 $options"
  exit 0
done
echo none
