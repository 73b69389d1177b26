#!/bin/bash
# Removes one cluster, or every cluster of this project: containers, network, volumes, keys. Images stay.
# Usage: clean.sh CACHE [CLUSTER]
set -euo pipefail
cache=$1 label=dask-site=cluster
[ -z "${2:-}" ] || label=dask-site.cluster=$2

if command -v podman >/dev/null; then
  mapfile -t containers < <(podman ps -aq --filter "label=$label")
  mapfile -t networks < <(podman network ls -q --filter "label=$label")
  mapfile -t volumes < <(podman volume ls -q --filter "label=$label")
  [ ${#containers[@]} = 0 ] || podman rm -f -t 0 "${containers[@]}" >/dev/null
  [ ${#networks[@]} = 0 ] || podman network rm -f "${networks[@]}" >/dev/null
  [ ${#volumes[@]} = 0 ] || podman volume rm -f "${volumes[@]}" >/dev/null
  echo "removed ${#containers[@]} containers, ${#networks[@]} networks, ${#volumes[@]} volumes"
fi
rm -rf "${cache:?}/clusters/${2:-}"
