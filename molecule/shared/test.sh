#!/usr/bin/env bash
# molecule's scenario on several Debian suites side by side: most of its time is waiting for Slurm.
# test.sh CACHE CLUSTER SUITE...
set -euo pipefail
cache=$1 cluster=$2
shift 2
for name in DASK_SITE_SPACK DASK_SITE_SPACK_PACKAGES DASK_SITE_SPACK_SOURCES; do
  if [ "${SCENARIO:-default}" = spack ] && [ -z "${!name:-}" ]; then
    echo "==> the scenario spack is left out: $name names nothing (docs/admin/spack.md)"
    exit 0
  fi
done
logs=out/molecule
mkdir -p "$logs"
declare -A running
# What does not depend on the version of Slurm is tested on one of several; see the marker "suite".
[ $# -gt 1 ] && export DIVIDED=1
trap 'kill "${running[@]}" 2>/dev/null; wait; exit 130' INT TERM

for suite; do
  echo "==> $(date +%T) molecule on $suite: the scenario ${SCENARIO:-default}"
  rm -f "$logs/$suite.failed"
  # A shell's background is deaf to interrupts, and so would be what the tests interrupt.
  SUITE=$suite CLUSTER=$cluster-$suite MOLECULE_EPHEMERAL_DIRECTORY=$cache/molecule/$cluster-$suite \
    FAILED=$PWD/$logs/$suite.failed NO_COLOR=1 \
    env --default-signal molecule test --scenario-name "${SCENARIO:-default}" > >(tee "$logs/$suite.log" | sed -u "s/^/$suite | /") 2>&1 &
  running[$suite]=$!
done

# What failed comes last, where whoever looks at a long log looks first.
failed=()
for suite; do
  wait "${running[$suite]}" || failed+=("$suite")
done
sleep 1 # the pipes' last lines
for suite; do
  echo "==> molecule on $suite:"
  grep -oE '=+ .*(passed|failed|error).* in [0-9.]+s.*' "$logs/$suite.log" | tail -1 || true
done
for suite in "${failed[@]}"; do
  echo "==> failed on $suite; all of it is in $logs/$suite.log:"
  if [ -s "$logs/$suite.failed" ]; then cat "$logs/$suite.failed"; else tail -40 "$logs/$suite.log"; fi
done
[ ${#failed[@]} = 0 ]
