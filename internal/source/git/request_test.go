package gitsource

import (
	"testing"

	"github.com/moby/buildkit/solver/pb"
)

// TestFullAddress: what is fetched is what the identifier names, by whatever protocol.
func TestFullAddress(t *testing.T) {
	for _, tt := range []struct {
		identifier, full string
		same             bool
	}{
		{"git://github.com/a/b.git#main", "https://github.com/a/b.git", true},
		{"git://github.com/a/b.git#main:dir", "https://GitHub.com/a/b", true},
		{"git://github.com/a/b.git", "ssh://git@github.com/a/b.git", true},
		{"git://github.com/a/b.git", "git@github.com:a/b.git", true},
		{"git://host:8080/a.git", "http://user:word@host:8080/a.git", true},
		{"git://github.com/a/b.git", "https://github.com/other/b.git", false},
		{"git://github.com/a/b.git", "https://example.com/a/b.git", false},
		{"git://host/a.git", "http://host:8080/a.git", false},
		{"git://github.com/a/b.git", "git@example.com:a/b.git", false},
		{"git://github.com/a/b.git", "://", false},
	} {
		_, err := Parse(&pb.SourceOp{Identifier: tt.identifier, Attrs: map[string]string{pb.AttrFullRemoteURL: tt.full}})
		if (err == nil) != tt.same {
			t.Errorf("%s from %s: %v", tt.identifier, tt.full, err)
		}
	}
}
