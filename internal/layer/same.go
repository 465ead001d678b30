package layer

import (
	"bytes"
	"io"
	"maps"
)

// Same reports whether two entries are the same in a layer: in everything but their paths. Files are
// compared by content: who writes to one can keep its size and put back its time. The times of directories do
// not count: every change below a directory changes its time.
func Same(a, b *Entry) (bool, error) {
	switch {
	case !sameAttributes(a, b):
		return false, nil
	case !a.IsRegular() || a.Size == 0:
		return true, nil
	case a.Digest != "" || b.Digest != "":
		return sameDigest(a, b)
	case a.Content == nil || b.Content == nil:
		return false, nil
	}
	af, aok := a.Content.(HostFile)
	bf, bok := b.Content.(HostFile)
	if aok && bok && af.HostPath() == bf.HostPath() {
		return true, nil
	}
	return sameContent(a, b)
}

func sameAttributes(a, b *Entry) bool {
	return a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.Size == b.Size && a.Link == b.Link &&
		a.Major == b.Major && a.Minor == b.Minor && (a.IsDir() || a.ModTime.Equal(b.ModTime)) && maps.Equal(a.Xattrs, b.Xattrs)
}

// sameDigest compares two files of which one knows its digest.
func sameDigest(a, b *Entry) (bool, error) {
	if a.Digest == "" {
		a, b = b, a
	}
	if b.Digest != "" {
		return a.Digest == b.Digest, nil
	}
	if b.Content == nil {
		return false, nil
	}
	d, err := HashContent(b)
	return a.Digest == d, err
}

// sameContent compares two files of the same size.
func sameContent(a, b *Entry) (bool, error) {
	ar, err := OpenContent(a)
	if err != nil {
		return false, err
	}
	defer ar.Close()
	br, err := OpenContent(b)
	if err != nil {
		return false, err
	}
	defer br.Close()
	abuf, bbuf := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(ar, abuf)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return false, err
		}
		if _, berr := io.ReadFull(br, bbuf[:n]); berr != nil && n > 0 {
			return false, berr
		}
		if err != nil || !bytes.Equal(abuf[:n], bbuf[:n]) {
			return bytes.Equal(abuf[:n], bbuf[:n]), nil
		}
	}
}
