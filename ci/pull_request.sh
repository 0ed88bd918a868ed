#!/bin/sh
# Open a pull request with the result, or bring the one that is open up to date. Needs gh, GH_TOKEN.
set -eu
[ -f .retrain/branch.txt ] || { echo "no branch was pushed: no pull request"; exit 0; }
head=$(sed -n 1p .retrain/branch.txt)
base=$(sed -n 2p .retrain/branch.txt)
title=$(cat .retrain/title.txt)
if [ -n "$(gh pr list --head "$head" --base "$base" --state open --json number --jq '.[].number')" ]; then
  gh pr edit "$head" --title "$title"
  gh pr comment "$head" --body-file .retrain/comment.md
else
  gh pr create --head "$head" --base "$base" --title "$title" --body-file .retrain/comment.md
fi
