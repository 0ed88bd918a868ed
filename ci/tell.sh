#!/bin/sh
# Write the comment to the page of the run. With gh and GH_TOKEN, and without a pull request: write it to the commit too.
set -eu
[ -f .retrain/comment.md ] || exit 0
[ -z "${GITHUB_STEP_SUMMARY:-}" ] || cat .retrain/comment.md >> "$GITHUB_STEP_SUMMARY"
[ -n "${GH_TOKEN:-}" ] || exit 0
[ -f .retrain/pull_request ] && [ -f .retrain/branch.txt ] || gh api "repos/$GITHUB_REPOSITORY/commits/$GITHUB_SHA/comments" --silent -F body=@.retrain/comment.md
