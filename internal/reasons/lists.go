package reasons

import (
	"errors"

	"github.com/opencontainers/go-digest"
)

// FilesRead are the digests of files in the keys of a build, each once, in the order of the steps.
func (b *Build) FilesRead() (all []digest.Digest) {
	seen := map[digest.Digest]bool{}
	for _, v := range b.Vertices {
		for i := range v.Inputs {
			d := digest.Digest(value(v.Lines, filesLine(i)))
			if d != "" && !seen[d] {
				seen[d] = true
				all = append(all, d)
			}
		}
	}
	return all
}

// Lists are lists of files by the digests that are of them.
type Lists map[digest.Digest]*List

// ReadFrom has all lists read their pieces by a function.
func (l Lists) ReadFrom(read func(piece string) ([]byte, error)) {
	for d, list := range l {
		if list == nil || len(list.Data) > 0 && len(list.Pieces) > 0 {
			delete(l, d)
			continue
		}
		list.Read = func(piece string) ([]byte, error) {
			if !IsPiece(piece) {
				return nil, errDamaged
			}
			return read(piece)
		}
	}
}

// Pieces are the names of all pieces.
func (l Lists) Pieces() (all []string, of map[string]*List) {
	of = map[string]*List{}
	for _, list := range l {
		for _, p := range list.Pieces {
			if of[p] == nil {
				of[p], all = list, append(all, p)
			}
		}
	}
	return all, of
}

// ErrNoPiece is the error of a piece that is not there.
var ErrNoPiece = errors.New("a part of the list is missing")
