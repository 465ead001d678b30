#!/bin/sh
# Cuts CHANGELOG.md for a release, by one commit that is not tagged: hack/release.sh 0.1.0. What was "Unreleased" gets the version and the day of the
# commit, and a new, empty "Unreleased" stands above. It prints what is left to do.
set -eu
cd "$(dirname "$0")/.."
version=${1:?usage: hack/release.sh VERSION}
echo "$version" | grep -Eq '^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)(-[0-9a-z.]+)?$' || { echo "hack/release.sh: $version is no version of semver" >&2; exit 1; }
if [ -n "$(git status --porcelain --untracked-files=no)" ]; then
	echo "hack/release.sh: there are changes that are in no commit" >&2
	exit 1
fi
if grep -qF "## [$version]" CHANGELOG.md || git rev-parse -q --verify "refs/tags/v$version" >/dev/null; then
	echo "hack/release.sh: there is $version already" >&2
	exit 1
fi
[ -n "$(sed -n '/^## \[Unreleased\]$/,/^## \[[0-9]/ { /^#/d; /./p; }' CHANGELOG.md)" ] || { echo "hack/release.sh: nothing stands below Unreleased in CHANGELOG.md" >&2; exit 1; }
sed -i "s/^## \[Unreleased\]$/&\n\n## [$version] - $(date -u +%Y-%m-%d)/" CHANGELOG.md
git commit -qm "Release $version" CHANGELOG.md
echo "Cut $version. Look at it, then:"
grep -Evq '^(#|$)' contrib/allowed_signers || echo "  contrib/allowed_signers   # has no key: add that of who releases, or nobody can verify what is released"
cat <<END
  make dist-test            # from this commit; the tag does not change a byte but the version's
  git tag -a v$version -m "slipway $version"
  make dist                 # what is released, in build/dist
  make sign SIGNING_KEY=... # its checksums, with a key of contrib/allowed_signers
  git push --follow-tags    # and what is in build/dist goes to the page of the release
END
