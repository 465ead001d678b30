package gitsource

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/moby/buildkit/util/gitutil/gitobject"
	"github.com/moby/buildkit/util/gitutil/gitsign"
	"github.com/moby/buildkit/util/pgpsign"
)

// Signature is the one that a commit must have, or the annotated tag that was asked for: by OpenPGP, or by SSH.
type Signature struct {
	given         bool
	keys          string
	rejectExpired bool // of keys
	// requireTag has only the tag's signature count, and ignoreTag only the commit's. Otherwise one of the two is enough.
	requireTag, ignoreTag bool
}

// Wanted reports whether there must be one.
func (s Signature) Wanted() bool { return s.given }

// Verify compares a commit with its signature. The repository is not trusted: what git stores is compared with its hash first, and
// which commit a tag is of is what the tag says. The rules and the words are BuildKit's.
func (s Signature) Verify(c *Commit, o *Objects) error {
	if c.Peeled != "" && c.Peeled != o.Peeled {
		return fmt.Errorf("the repository says that %s is commit %s, and has %q", c.Ref, c.Peeled, o.Peeled)
	}
	var ofTag error
	if !s.ignoreTag && len(o.Tag) > 0 {
		tag, err := object("tag", o.Tag, c.Object)
		if err != nil {
			return err
		}
		if ofTag = s.by(tag); ofTag == nil {
			return nil
		}
	}
	switch {
	case s.requireTag && ofTag != nil:
		return ofTag
	case s.requireTag:
		return errors.New("signed tag required but no signed tag found")
	}
	commit, err := object("commit", o.Commit, cmp.Or(o.Peeled, c.Object))
	if err != nil {
		return err
	}
	return s.by(commit)
}

func (s Signature) by(o *gitobject.GitObject) error {
	return gitsign.VerifySignature(o, []byte(s.keys), &pgpsign.VerifyPolicy{RejectExpiredKeys: s.rejectExpired})
}

func object(kind string, data []byte, hash string) (*gitobject.GitObject, error) {
	o, err := gitobject.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("failed to parse git %s object: %w", kind, err)
	}
	if err := o.VerifyChecksum(hash); err != nil {
		return nil, fmt.Errorf("%s object checksum verification failed: %w", kind, err)
	}
	return o, nil
}
