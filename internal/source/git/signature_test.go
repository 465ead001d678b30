package gitsource

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// What is not signed, or not what its hash says, does not pass. (That what is signed does, BuildKit's own tests show.)
func TestSignatures(t *testing.T) {
	hash := func(kind, data string) string {
		sum := sha1.Sum(fmt.Appendf(nil, "%s %d\x00%s", kind, len(data), data))
		return hex.EncodeToString(sum[:])
	}
	const who = "a <a@b> 1700000000 +0000\n"
	commit := "tree " + strings.Repeat("1", 40) + "\nauthor " + who + "committer " + who + "\nwords\n"
	of := hash("commit", commit)
	tag := "object " + of + "\ntype commit\ntag v1\ntagger " + who + "\nwords\n"
	other := strings.Repeat("2", 40)
	plain := &Objects{Commit: []byte(commit)}
	tagged := &Objects{Commit: []byte(commit), Tag: []byte(tag), Peeled: of}
	for name, tc := range map[string]struct {
		s    Signature
		c    Commit
		o    *Objects
		want string
	}{
		"unsigned commit":    {Signature{given: true}, Commit{Object: of}, plain, "git object is not signed"},
		"other commit":       {Signature{given: true}, Commit{Object: other}, plain, "commit object checksum verification failed"},
		"unsigned tag":       {Signature{given: true, requireTag: true}, Commit{Object: hash("tag", tag), Peeled: of}, tagged, "git object is not signed"},
		"other tag":          {Signature{given: true}, Commit{Object: other, Peeled: of}, tagged, "tag object checksum verification failed"},
		"no tag":             {Signature{given: true, requireTag: true}, Commit{Object: of}, plain, "signed tag required"},
		"tag of another one": {Signature{given: true}, Commit{Object: hash("tag", tag), Peeled: other}, tagged, "the repository says that"},
		"tag that is none":   {Signature{given: true}, Commit{Object: of, Peeled: other}, plain, "the repository says that"},
	} {
		if err := tc.s.Verify(&tc.c, tc.o); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
}
