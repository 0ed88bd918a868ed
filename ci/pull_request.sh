#!/bin/sh
# Open a pull request with the result, or update the open one. Needs gh and GH_TOKEN.
set -eu
[ -f .retrain/branch.txt ] || { echo "no branch was pushed: no pull request"; exit 0; }
head=$(sed -n 1p .retrain/branch.txt)
base=$(sed -n 2p .retrain/branch.txt)
title=$(cat .retrain/title.txt)
request() {
  # A fork can have a branch of the same name.
  number=$(gh pr list --head "$head" --base "$base" --state open --json number,isCrossRepository \
    --jq '.[] | select(.isCrossRepository | not) | .number') || return 1
  if [ -n "$number" ]; then
    gh pr edit "$number" --title "$title" --body-file .retrain/comment.md && gh pr comment "$number" --body-file .retrain/comment.md
  else
    gh pr create --head "$head" --base "$base" --title "$title" --body-file .retrain/comment.md
  fi
}
if request; then
  : > .retrain/pull_request # ci/tell.sh then writes no comment to the commit
  exit 0
fi
{
  printf '## Retrained, but without a pull request\n\nThe branch of the result was pushed. The pull request failed; see the '
  printf 'log of the run. Allow Actions to create pull requests (Settings, Actions, General), or open one by hand.\n\n'
  cat .retrain/comment.md
} > .retrain/body.md
mv .retrain/body.md .retrain/comment.md
exit 1
