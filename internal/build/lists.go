package build

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/reasons"
	"github.com/slipway-build/slipway/internal/store"
)

// The lists of the files that a build read are in its record beside the graph: one file with all lists, which has the digests in its name,
// and one for each piece of the long ones. A build that read what an earlier one did has the files of that one, by links.
const (
	listsPrefix = "lists-"
	piecePrefix = store.PiecePrefix
)

// maxPiece is how long a piece may be that is read, in bytes.
const maxPiece = 256 << 20

// listsName is the name of the file with lists of files that digests are of.
func listsName(digests []digest.Digest) string {
	h := digest.Canonical.Digester()
	for _, d := range digests {
		fmt.Fprintln(h.Hash(), d)
	}
	return listsPrefix + h.Digest().Encoded()[:24]
}

// readLists reads the lists of the record in a directory. What is missing or damaged there are none of.
func readLists(dir string) reasons.Lists {
	lists := reasons.Lists{}
	found, err := filepath.Glob(filepath.Join(dir, listsPrefix+"*"))
	if err != nil || len(found) == 0 {
		return lists
	}
	f, err := store.OpenRegular(found[0])
	if err != nil {
		return lists
	}
	defer f.Close()
	if json.NewDecoder(io.LimitReader(f, maxRecord)).Decode(&lists) != nil {
		return reasons.Lists{}
	}
	lists.ReadFrom(func(piece string) ([]byte, error) {
		f, err := store.OpenRegular(filepath.Join(dir, piecePrefix+piece))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return io.ReadAll(io.LimitReader(f, maxPiece))
	})
	return lists
}

// keepLists leaves lists of files in a record: those that made gives, and what the record in the directory earlier has; "" is none.
func keepLists(dir, earlier string, digests []digest.Digest, made func(digest.Digest) *reasons.List) error {
	if len(digests) == 0 {
		return nil
	}
	name := listsName(digests)
	there := map[string]bool{}
	if earlier != "" {
		there = namesIn(earlier)
	}
	if there[name] && linkAll(dir, earlier, name, there) {
		return nil
	}
	lists, known := reasons.Lists{}, reasons.Lists(nil)
	for _, d := range digests {
		l := made(d)
		if l == nil && earlier != "" {
			if known == nil {
				known = readLists(earlier)
			}
			l = known[d]
		}
		if l != nil {
			lists[d] = l
		}
	}
	return writeLists(dir, earlier, name, lists, there)
}

// namesIn are the names of files in a record. Whatever it has is of use, and nothing of it is needed.
func namesIn(dir string) map[string]bool {
	there := map[string]bool{}
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		there[e.Name()] = true
	}
	return there
}

// linkAll gives a record the lists of another one, with all pieces. It reports whether it could.
func linkAll(dir, earlier, name string, there map[string]bool) bool {
	for file := range there {
		if !strings.HasPrefix(file, piecePrefix) {
			continue
		}
		if err := os.Link(filepath.Join(earlier, file), filepath.Join(dir, file)); err != nil && !errors.Is(err, os.ErrExist) {
			return false
		}
	}
	err := os.Link(filepath.Join(earlier, name), filepath.Join(dir, name))
	return err == nil || errors.Is(err, os.ErrExist)
}

// writeLists writes lists, and the pieces that are not there.
func writeLists(dir, earlier, name string, lists reasons.Lists, there map[string]bool) error {
	pieces, of := lists.Pieces()
	for _, p := range pieces {
		file := piecePrefix + p
		if there[file] && os.Link(filepath.Join(earlier, file), filepath.Join(dir, file)) == nil {
			continue
		}
		data, err := of[p].Read(p)
		if err != nil {
			return nil //nolint:nilerr // it was pruned meanwhile: there are no lists, and what is explained with them says less
		}
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
			return err
		}
	}
	data, err := json.Marshal(lists)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), data, 0o600)
}

// recordDir is where the record of a build is.
func recordDir(s *store.Store, id string) string { return filepath.Join(s.Root(), "builds", id) }
