package fileop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/internal/layer"
	"github.com/slipway-build/slipway/internal/reasons"
)

// SourceList is [SourceDigest] with a list of the files that the digest is of, most of which is in a file without a name in the directory
// tmp if it is large. It is nil where that cannot be written.
func SourceList(ctx context.Context, t layer.Tree, copies []*pb.FileActionCopy, hashed Hasher, tmp string) (digest.Digest, *reasons.List, error) {
	h, l := sha256.New(), &lister{}
	l.maker.Spill = func() (*os.File, error) { return layer.TempFile(tmp) }
	fmt.Fprintln(h, sourceVersion)
	if err := describeSources(ctx, io.MultiWriter(h, l), t, copies, hashed, l); err != nil {
		return "", nil, err
	}
	return digest.NewDigest(digest.SHA256, h), l.maker.List(), nil
}

// lister makes a list of the lines that a digest is of. What they are about it is told before they are written.
type lister struct {
	maker   reasons.ListMaker
	about   []about
	next    int    // of about
	partial []byte // a line without its end
}

// about says what a line is about: a path of the tree, and where in the line behind the name that it has in it the attributes begin;
// or nothing.
type about struct {
	path       string
	attributes int
	directory  bool
}

func (l *lister) expect(a about) {
	if l == nil {
		return
	}
	if l.next == len(l.about) {
		l.about, l.next = l.about[:0], 0
	}
	l.about = append(l.about, a)
}

// Write takes a part of the lines.
func (l *lister) Write(p []byte) (int, error) {
	n := len(p)
	for {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			l.partial = append(l.partial, p...)
			return n, nil
		}
		line := p[:end]
		if len(l.partial) > 0 {
			l.partial = append(l.partial, line...)
			line = l.partial
		}
		l.line(line)
		p, l.partial = p[end+1:], l.partial[:0]
	}
}

// The end of the line of a file: see appendContent.
var contentLabel = []byte(" content sha256:")

const contentDigits = 64

func (l *lister) line(line []byte) {
	if l.next >= len(l.about) {
		return
	}
	a := l.about[l.next]
	l.next++
	if a.path == "" {
		return
	}
	var content []byte
	attributes := line[min(a.attributes, len(line)):]
	if at := len(attributes) - contentDigits - len(contentLabel); at >= 0 && bytes.Equal(attributes[at:at+len(contentLabel)], contentLabel) {
		content, attributes = attributes[at+len(contentLabel):], attributes[:at]
	}
	l.maker.Add(a.path, a.directory, content, attributes)
}
