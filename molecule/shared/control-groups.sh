#!/bin/bash
# Prints the control groups by which Slurm in a container here can confine the memory of a job: v1, v2 or none,
# and after it the options that podman needs for them.
# Usage: control-groups.sh IMAGE
try='
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  version=v2 group=/sys/fs/cgroup/try
  grep -qw memory /sys/fs/cgroup/cgroup.controllers || exit 1
else
  version=v1 group=/sys/fs/cgroup/memory/try
  mount -o remount,bind,rw /sys/fs/cgroup/memory || exit 1
fi
mkdir $group && rmdir $group && echo $version'

for options in "" "--cap-add SYS_ADMIN" "--cap-add SYS_ADMIN --security-opt apparmor=unconfined"; do
  # shellcheck disable=SC2086
  version=$(podman run --rm --network none --systemd always $options "$1" sh -c "$try" 2>/dev/null) || continue
  echo "$version $options"
  exit 0
done
echo none
