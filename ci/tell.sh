#!/bin/sh
# Show the comment on the page of the run. With GH_TOKEN and gh: if no pull request carries it, write it to the commit too.
set -eu
[ -f .retrain/comment.md ] || exit 0
[ -z "${GITHUB_STEP_SUMMARY:-}" ] || cat .retrain/comment.md >> "$GITHUB_STEP_SUMMARY"
[ -n "${GH_TOKEN:-}" ] || exit 0
[ -f .retrain/pull_request ] && [ -f .retrain/branch.txt ] || gh api "repos/$GITHUB_REPOSITORY/commits/$GITHUB_SHA/comments" --silent -F body=@.retrain/comment.md
