#!/bin/sh
# Write what will rerun to the pull request PULL_REQUEST, as one comment that the next plan edits. Needs gh, GH_TOKEN.
# STAGES: those that the plan names; where it names none, only a comment that is there is brought up to date.
set -eu
[ -f .retrain/plan.md ] || exit 0
mark='<!-- retrain: plan -->'
{ echo "$mark"; cat .retrain/plan.md; } > .retrain/told.md
comments="repos/$GITHUB_REPOSITORY/issues"
# Anybody may write the mark; the comment of another is not edited.
own=".[] | select(.user.login == \"github-actions[bot]\" and (.body | startswith(\"$mark\"))) | .id"
found=$(gh api --paginate "$comments/$PULL_REQUEST/comments" --jq "$own")
if [ -n "$found" ]; then
  gh api --method PATCH "$comments/comments/$(echo "$found" | sed -n 1p)" --silent -F body=@.retrain/told.md
elif [ -n "$STAGES" ]; then
  gh api "$comments/$PULL_REQUEST/comments" --silent -F body=@.retrain/told.md
fi
