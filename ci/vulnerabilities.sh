#!/bin/sh
# Look up known vulnerabilities of every locked package. Needs pip-audit (requirements/audit.lock) and a network.
set -eu
status=0
for lock in requirements/*.lock; do
  echo "$lock"
  pip-audit --strict --require-hashes --disable-pip --progress-spinner off -r "$lock" || status=1
done
exit $status
