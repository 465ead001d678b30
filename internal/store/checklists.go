package store

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/reasons"
)

// PiecePrefix begins the names of files in the record of a build that are pieces of lists of files: see [reasons.List]. Records share them.
const PiecePrefix = "files-"

// maxPiece is how long a piece may be, in bytes.
const maxPiece = 256 << 20

// lists looks at the lists of files that builds have left, each of which is named by its content.
func (l *survey) lists(ctx context.Context) error {
	if l.opt.Quick {
		return nil
	}
	builds, err := l.names("builds")
	if err != nil {
		return err
	}
	seen := map[uint64]bool{} // by inode
	for _, b := range builds {
		if r, err := l.s.BuildState(b.Name()); err != nil || r.Running {
			continue // it writes them
		}
		files, err := l.names("builds", b.Name())
		if err != nil {
			return err
		}
		for _, f := range files {
			piece, is := strings.CutPrefix(f.Name(), PiecePrefix)
			if !is || ctx.Err() != nil {
				continue
			}
			l.piece(filepath.Join("builds", b.Name(), f.Name()), piece, seen)
		}
	}
	return ctx.Err()
}

// piece looks at a piece, unless it was looked at by another name.
func (l *survey) piece(path, name string, seen map[uint64]bool) {
	full := filepath.Join(l.s.root, path)
	f, err := os.OpenFile(full, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	problem := "it cannot be read"
	if err == nil {
		defer f.Close()
		var st unix.Stat_t
		switch err := unix.Fstat(int(f.Fd()), &st); {
		case err != nil:
		case st.Mode&unix.S_IFMT != unix.S_IFREG:
			problem = "it is no file"
		case seen[st.Ino]:
			return
		default:
			seen[st.Ino] = true
			data, err := io.ReadAll(io.LimitReader(f, maxPiece))
			l.bytes.Add(int64(len(data)))
			if err == nil && reasons.PieceName(data) == name {
				return
			}
			problem = "it has another content than its name says"
		}
	}
	l.find(Finding{Kind: "list", Subject: path, Problem: problem, Means: "what ran again because of files is told without their names",
		Repair: "remove it", mend: func(context.Context) error { return os.Remove(full) }})
}
