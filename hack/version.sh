#!/bin/sh
# Prints the version of what is in the repository, by semver: that of the tag, "0.2.0"; after it, or before the first one, what
# comes before the next version, "0.2.1-dev.12+g48fb7bb9ff1b" with the number of commits since, and ".dirty" after changes that
# are in no commit. hack/version.sh commit|date prints the commit's hash, or when it was committed (RFC 3339, UTC). Outside of
# a repository it prints nothing.
set -eu
cd "$(dirname "$0")/.."
git rev-parse -q --verify HEAD >/dev/null 2>&1 || exit 0

version() {
	hash=g$(git rev-parse --short=12 HEAD)
	[ -z "$(git status --porcelain --untracked-files=no)" ] || hash=$hash.dirty
	tag=$(git describe --tags --abbrev=0 --match 'v[0-9]*.[0-9]*.[0-9]*' 2>/dev/null) || tag=
	dev=dev.$(git rev-list --count ${tag:+"$tag.."}HEAD)+$hash
	number=${tag#v}
	case $number/$dev in
	/*) echo "0.1.0-$dev" ;;
	*/dev.0+*.dirty | */dev.[1-9]*)
		case $number in
		*-*) echo "$number.$dev" ;; # after 0.2.0-rc.1
		*) echo "${number%.*}.$((${number##*.} + 1))-$dev" ;;
		esac
		;;
	*) echo "$number" ;;
	esac
}

case ${1:-version} in
version) version ;;
commit) git rev-parse HEAD ;;
date) TZ=UTC0 git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ ;;
*) echo "usage: hack/version.sh [version|commit|date]" >&2; exit 2 ;;
esac
