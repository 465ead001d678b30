package load

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/store"
)

const (
	// maxFiles is how many entries an archive may have. Those of images have three for each layer at most.
	maxFiles = 100_000
	// maxJSON is how long a manifest, an index or a config may be.
	maxJSON = 16 << 20
	// maxDocuments is how long all of them may be, each as often as it is read.
	maxDocuments = 64 << 20
	// maxNames is how many bytes the names and links of an archive's entries may have, and maxName one of them.
	maxNames = 32 << 20
	maxName  = 4096
	// maxLinks is how many links may lead from one to another.
	maxLinks = 8
)

// archive is an archive of which the files are in a directory. Names in it are clean and relative; they
// name nothing in the file system.
type archive struct {
	store *store.Store
	files map[string]*file
	links map[string]string // to other names

	names     int   // bytes of them
	documents int64 // bytes of manifests, indexes and configs
	progress  func(name string, current, total int64)
}

// minShown is how long a file is of which progress is told.
const minShown = 64 << 10

type file struct {
	path   string
	size   int64
	digest digest.Digest                      // SHA-256
	others map[digest.Algorithm]digest.Digest // as far as they were asked for
}

// spooling says how an archive is read.
type spooling struct {
	kind     string // what it is an archive of, and who writes such
	most     int64  // bytes that it may have when it is not compressed; 0 is no limit
	progress func(name string, current, total int64)
}

// ofImages is the kind of what [Load] reads.
const ofImages = "images, as save and build -o type=docker or oci write them"

// spool reads an archive to its end and puts its files into dir.
func spool(ctx context.Context, s *store.Store, dir string, r io.Reader, how spooling) (*archive, error) {
	plain, err := layer.Decompress(bufio.NewReaderSize(layer.ContextReader(ctx, r), 1<<20))
	if err != nil {
		return nil, &invalidError{fmt.Errorf("reading archive: %w", err)}
	}
	defer plain.Close()
	a := &archive{store: s, files: map[string]*file{}, links: map[string]string{}, progress: how.progress}
	tr := tar.NewReader(plain)
	if how.most > 0 {
		tr = tar.NewReader(&bounded{plain, how.most})
	}
	buf := make([]byte, 1<<20)
	for n := 0; ; n++ {
		hdr, err := tr.Next()
		switch {
		case err == io.EOF && n == 0:
			return nil, invalid("the archive is empty")
		case n == 0 && (errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF)):
			return nil, invalid("reading archive: %w\n  this is no archive of %s", err, how.kind)
		case err == io.EOF:
			return a, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil:
			return nil, invalid("reading archive: %w", err)
		case n == maxFiles:
			return nil, invalid("the archive has more than %d files", maxFiles)
		}
		if err := a.add(hdr, tr, filepath.Join(dir, strconv.Itoa(n)), buf); err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, err
		}
	}
}

// errTooLong marks an archive that is not read to its end.
var errTooLong = errors.New("it is too long")

// bounded reads no more than some bytes.
type bounded struct {
	r    io.Reader
	left int64
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLong
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// add takes an entry; a file's content goes to path.
func (a *archive) add(hdr *tar.Header, content io.Reader, path string, buf []byte) error {
	if len(hdr.Name) > maxName || len(hdr.Linkname) > maxName {
		return invalid("a name in the archive has more than %d bytes", maxName)
	}
	if a.names += len(hdr.Name) + len(hdr.Linkname); a.names > maxNames {
		return invalid("the names in the archive have more than %d bytes", maxNames)
	}
	name, err := clean(hdr.Name)
	if err != nil {
		return err
	}
	switch hdr.Typeflag {
	case tar.TypeReg:
		if isSparse(hdr) {
			return invalid("%q in the archive is a sparse file", hdr.Name)
		}
		if a.progress != nil && hdr.Size >= minShown {
			content = &meter{r: content, tell: func(n int64) { a.progress(name, n, hdr.Size) }}
		}
		f, err := a.writeFile(path, content, buf)
		if err != nil {
			return fmt.Errorf("reading %q of the archive: %w", hdr.Name, err)
		}
		a.files[name] = f
		delete(a.links, name)
	case tar.TypeGNUSparse:
		return invalid("%q in the archive is a sparse file", hdr.Name)
	case tar.TypeSymlink:
		a.links[name] = joinLink(name, hdr.Linkname)
	case tar.TypeLink:
		if a.links[name], err = clean(hdr.Linkname); err != nil {
			return err
		}
	}
	return nil
}

// joinLink is what a symbolic link means, "" when it leads out of the archive.
func joinLink(name, target string) string {
	to, err := clean(path.Join(path.Dir(name), target))
	if path.IsAbs(target) || err != nil {
		return ""
	}
	return to
}

// clean makes a name relative and clean. One that leads out of the archive is an error.
func clean(name string) (string, error) {
	c := strings.TrimPrefix(path.Clean(strings.Clone(name)), "/") // of a header it would keep all of that
	if c == ".." || strings.HasPrefix(c, "../") {
		return "", invalid("the name %q leads out of the archive", name)
	}
	return c, nil
}

// isSparse reports whether an entry's content takes less in the archive than it has bytes.
func isSparse(hdr *tar.Header) bool {
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func (a *archive) writeFile(path string, r io.Reader, buf []byte) (_ *file, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	hash, out := sha256.New(), layer.NewSparseWriter(a.store.Patient(f))
	disk := &failing{w: out}
	n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(hash, disk)}, struct{ io.Reader }{r}, buf)
	switch {
	case disk.err != nil:
		return nil, disk.err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, invalid("the archive ends in the middle: %w", err)
	case err != nil:
		return nil, invalid("%w", err)
	}
	if err := out.Flush(); err != nil {
		return nil, err
	}
	return &file{path: path, size: n, digest: digest.NewDigest(digest.SHA256, hash)}, nil
}

// file finds a file by a name that the archive uses, through links.
func (a *archive) file(name string) (*file, error) {
	at, err := clean(name)
	if err != nil {
		return nil, err
	}
	for range maxLinks {
		if f, ok := a.files[at]; ok {
			return f, nil
		}
		next, ok := a.links[at]
		if !ok || next == "" {
			return nil, invalid("%s is not in the archive", name)
		}
		at = next
	}
	return nil, invalid("%s in the archive is a link to a link without end", name)
}

// json reads a small file. What is made of it may be kept: all of them are bounded, too.
func (a *archive) json(f *file, name string) ([]byte, error) {
	if f.size > maxJSON {
		return nil, invalid("%s has %d bytes, more than %d", name, f.size, maxJSON)
	}
	if a.documents += f.size; a.documents > maxDocuments {
		return nil, invalid("the manifests and configs that the archive names have more than %d bytes", maxDocuments)
	}
	return os.ReadFile(f.path)
}

// meter tells how much was read.
type meter struct {
	r    io.Reader
	n    int64
	tell func(n int64)
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	m.n += int64(n)
	if n > 0 {
		m.tell(m.n)
	}
	return n, err
}
