package registry

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/distribution/reference"
)

// Names are read as the expressions of distribution/reference have them, whether it asks those or not (hack/patches).
func TestReferencesLikeTheirExpressions(t *testing.T) {
	named := regexp.MustCompile(`^(?:(` + reference.DomainRegexp.String() + `)/)?([a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|[-]+)[a-z0-9]+)*)*)$`)
	check := func(s string) {
		want := reference.ReferenceRegexp.FindStringSubmatch(s)
		ref, err := reference.Parse(s)
		if want == nil {
			if err == nil {
				t.Errorf("%q is taken, as %v", s, ref)
			}
			return
		}
		if err != nil { // the digest's algorithm may not be one
			if want[3] == "" && len(s) < 256 {
				t.Errorf("%q is refused: %v", s, err)
			}
			return
		}
		parts := named.FindStringSubmatch(want[1])
		got := [4]string{}
		if n, ok := ref.(reference.Named); ok {
			got[0], got[1] = reference.Domain(n), reference.Path(n)
		}
		if n, ok := ref.(reference.Tagged); ok {
			got[2] = n.Tag()
		}
		if n, ok := ref.(reference.Digested); ok {
			got[3] = n.Digest().String()
		}
		if parts == nil || got != [4]string{parts[1], parts[2], want[2], want[3]} {
			t.Errorf("%q is %q, want %q of %q", s, got, parts, want)
		}
	}
	hex := strings.Repeat("0a", 32)
	for _, s := range []string{
		"", "a", "A", "a/b", "A/b", "a/B", "a.b/c", "a_b/c", "a__b", "a___b", "a--b/c", "a---b", "-a", "a-", "a-/b", "a.-b/c", "a..b/c", "a.b./c", "a:1", "a:1/b", "a:1/b:2", "a:/b", "a:x/b",
		"[::1]/a", "[::1]:5/a", "[::1]", "[]/a", "[x]/a", "[::1/a", "[::1]5/a", "a:", "a:-b", "a:_", "a@", "a@sha256:" + hex, "a:b@sha256:" + hex, "a@sha256:" + hex + "@", "a@sha256:0A", "@sha256:" + hex,
		"a@sha256:" + strings.ToUpper(hex), "a@x+y.z:" + hex, "a@x+:" + hex, "a@1:" + hex, "a@:" + hex, "a@sha256:" + hex[:31], "a/", "/a", "a//b", "a/b/", "a:" + strings.Repeat("t", 128),
		"a:" + strings.Repeat("t", 129), "a\n", "a\xff", "ä/b", hex, "a:b:c", "a/b:c/d", "a.b:5000", "localhost/a", "a:5/b@c",
	} {
		check(s)
	}
	pieces := []string{"a", "b", "Z", "0", ".", "-", "_", "/", ":", "@", "[", "]", "sha256:", hex[:32], "__", "::1", "+", "\xc3"}
	r := rand.New(rand.NewPCG(1, 2))
	for range 50_000 {
		var s strings.Builder
		for range 1 + r.IntN(9) {
			s.WriteString(pieces[r.IntN(len(pieces))])
		}
		check(s.String())
	}
}
