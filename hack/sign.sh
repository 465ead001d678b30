#!/bin/sh
# Signs the checksums of a release and looks at such a signature. It is one of SSH (ssh-keygen -Y), which every machine with OpenSSH verifies without another
# program, and which git takes for tags too.
#
#   hack/sign.sh sign     makes build/dist/SHA256SUMS.sig with SIGNING_KEY, a file with a private key or with the public one of a key that an agent has
#   hack/sign.sh verify   looks at signature and checksums of build/dist, with what users have: contrib/allowed_signers
#
# Who may sign stands in contrib/allowed_signers: what nobody could verify is not signed. DIST and ALLOWED_SIGNERS are others in the test.
set -eu
cd "$(dirname "$0")/.."
dist=${DIST:-build/dist} signers=${ALLOWED_SIGNERS:-contrib/allowed_signers}

grep -Evq '^(#|$)' "$signers" || { echo "hack/sign.sh: $signers has no key: add the public one of who releases first" >&2; exit 1; }

verify() {
	ssh-keygen -Y verify -f "$signers" -I releases -n file -s "$dist/SHA256SUMS.sig" <"$dist/SHA256SUMS" || {
		echo "hack/sign.sh: $dist/SHA256SUMS.sig is no signature of $dist/SHA256SUMS by a key of $signers" >&2
		return 1
	}
	(cd "$dist" && sha256sum --quiet --strict -c SHA256SUMS)
}

sign() {
	key=${SIGNING_KEY:?a file with the private key, or with the public one of a key that an agent has}
	(cd "$dist" && sha256sum --quiet --strict -c SHA256SUMS)
	rm -f "$dist/SHA256SUMS.sig"
	ssh-keygen -q -Y sign -f "$key" -n file "$dist/SHA256SUMS"
	verify || {
		rm -f "$dist/SHA256SUMS.sig"
		return 1
	}
}

case ${1:-} in
sign | verify) "$1" ;;
*) echo "usage: hack/sign.sh sign|verify" >&2; exit 2 ;;
esac
