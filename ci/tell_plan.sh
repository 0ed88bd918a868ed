#!/bin/sh
# Write the plan to the pull request PULL_REQUEST, as one comment that the next plan edits. Needs gh and GH_TOKEN.
# STAGES: the stages of the plan. If there are none, an existing comment is updated but no new one is written.
set -eu
[ -f .retrain/plan.md ] || exit 0
mark='<!-- retrain: plan -->'
{ echo "$mark"; cat .retrain/plan.md; } > .retrain/body.md
comments="repos/$GITHUB_REPOSITORY/issues"
# Anybody may write the mark. Only a comment of this workflow is edited.
query=".[] | select(.user.login == \"github-actions[bot]\" and (.body | startswith(\"$mark\"))) | .id"
ids=$(gh api --paginate "$comments/$PULL_REQUEST/comments" --jq "$query")
if [ -n "$ids" ]; then
  gh api --method PATCH "$comments/comments/$(echo "$ids" | sed -n 1p)" --silent -F body=@.retrain/body.md
elif [ -n "$STAGES" ]; then
  gh api "$comments/$PULL_REQUEST/comments" --silent -F body=@.retrain/body.md
fi
