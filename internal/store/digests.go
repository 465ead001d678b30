package store

import (
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/layer/digests"
)

// What was digested of the files of a layer's directory form, for the key of a COPY or on the way into a blob, is
// remembered beside it by their stamps: a directory that is made again has others. Files that the layer never changes
// need no second look, but a stamp may be that of another file where a directory was replaced in one tick of the clock:
// such ones are not kept, as in a build context.

// fileDigests are those of one layer. They are read when somebody asks for the first one.
type fileDigests struct {
	s  *Store
	id layer.ID

	once   sync.Once
	memory *digests.Memory
	noted  atomic.Bool
}

func (f *fileDigests) open() *digests.Memory {
	f.once.Do(func() {
		tmp, err := f.s.leaseDir()
		if err != nil {
			tmp = "" // whoever writes is told
		}
		f.memory = digests.Open(f.s.digestsPath(f.id), tmp)
	})
	return f.memory
}

// Recall implements [layer.Memory].
func (f *fileDigests) Recall(s layer.Stamp) digest.Digest { return f.open().Recall(s) }

// Note implements [layer.Memory].
func (f *fileDigests) Note(s layer.Stamp, read time.Time, sum digest.Digest) {
	f.open().Note(s, read, sum)
	f.noted.Store(true)
}

func (s *Store) digestsPath(id layer.ID) string {
	return filepath.Join(s.root, "layers", string(id), "digests")
}

// formTree is the tree of a layer's directory form, whose files' digests are known when they were needed before.
func (s *Store) formTree(id layer.ID) layer.Tree {
	known, _ := s.digests.LoadOrStore(id, &fileDigests{s: s, id: id})
	return s.OpenDir(s.layerFS(id), layer.DirOptions{Overlay: true, Immutable: true, Memory: known.(*fileDigests)})
}

// KeepDigests saves what this process has digested of layers' files, for later builds. One that cannot be saved is
// made again.
func (s *Store) KeepDigests() {
	s.digests.Range(func(_, known any) bool {
		f := known.(*fileDigests)
		if !f.noted.Swap(false) {
			return true
		}
		_ = f.open().Save(func(write func(*os.File) error) error {
			return s.replaceBeside(s.digestsPath(f.id), write)
		})
		return true
	})
}
