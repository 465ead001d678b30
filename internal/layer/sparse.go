package layer

import (
	"bytes"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Zeros of files are kept as holes, wherever this program writes and reads them: a file that looks like
// hundreds of gigabytes, as the log of last logins does after a useradd with a large ID, then costs what it holds.

const (
	// sparseBlock is how many zeros are worth a hole, in bytes: far more than a filesystem's block, so that files
	// are not cut into pieces for little.
	sparseBlock = 64 << 10
	// sparseSize is how long a file is of which one asks whether it has holes, in bytes.
	sparseSize = 1 << 20
)

var zeroBlock [sparseBlock]byte

// SparseFile is what a SparseWriter needs of a file.
type SparseFile interface {
	io.Writer
	io.Seeker
	Truncate(size int64) error
}

// SparseWriter writes to a new file, or at the end of one, and leaves a hole in place of many zeros. What was
// written is in the file after Flush.
type SparseWriter struct {
	f     SparseFile
	zeros int64 // that were not written yet
}

// NewSparseWriter returns a writer at the end of f.
func NewSparseWriter(f SparseFile) *SparseWriter { return &SparseWriter{f: f} }

func (w *SparseWriter) Write(p []byte) (int, error) {
	done := 0 // up to here p is in the file, or among the zeros
	for at := 0; at < len(p); {
		block := p[at:min(at+sparseBlock, len(p))]
		if !bytes.Equal(block, zeroBlock[:len(block)]) {
			at += len(block)
			if w.zeros == 0 {
				continue // it is written together with what follows
			}
			if err := w.skip(); err != nil {
				return done, err
			}
			continue
		}
		if err := w.put(p[done:at]); err != nil {
			return done, err
		}
		w.zeros += int64(len(block))
		at += len(block)
		done = at
	}
	if err := w.put(p[done:]); err != nil {
		return done, err
	}
	return len(p), nil
}

// put writes what is not all zeros.
func (w *SparseWriter) put(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	_, err := w.f.Write(p)
	return err
}

// skip puts the zeros into the file, as a hole when they are many.
func (w *SparseWriter) skip() error {
	for w.zeros > 0 && w.zeros < sparseBlock {
		n, err := w.f.Write(zeroBlock[:w.zeros])
		if w.zeros -= int64(n); err != nil {
			return err
		}
	}
	if w.zeros == 0 {
		return nil
	}
	_, err := w.f.Seek(w.zeros, io.SeekCurrent)
	w.zeros = 0
	return err
}

// Flush makes the file as long as what was written.
func (w *SparseWriter) Flush() error {
	if w.zeros < sparseBlock {
		return w.skip()
	}
	if err := w.skip(); err != nil {
		return err
	}
	end, err := w.f.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	return w.f.Truncate(end)
}

// CopySparse writes what r has at the end of f, with holes.
func CopySparse(f SparseFile, r io.Reader) (int64, error) {
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	w := NewSparseWriter(f)
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, *buf)
	if err == nil {
		err = w.Flush()
	}
	return n, err
}

func (w fdWriter) Seek(offset int64, whence int) (int64, error) {
	n, err := unix.Seek(int(w), offset, whence)
	return n, os.NewSyscallError("lseek", err)
}

// Truncate changes the size.
func (w fdWriter) Truncate(size int64) error {
	return os.NewSyscallError("ftruncate", unix.Ftruncate(int(w), size))
}

// holeReader reads a file without reading its holes, which would fill the page cache with zeros.
type holeReader struct {
	file     io.Reader // keeps fd open
	fd       int
	at, size int64
	end      int64 // up to here it is data, or a hole
	hole     bool
}

// SkipHoles returns what reads f, of which the size is known, from its beginning: f itself, unless it is a
// long file with holes.
func SkipHoles(f io.Reader, size int64) io.Reader {
	file, ok := f.(interface{ Fd() uintptr })
	if !ok || size < sparseSize {
		return f
	}
	size, sparse := holes(int(file.Fd()))
	if !sparse {
		return f
	}
	return &holeReader{file: f, fd: int(file.Fd()), size: size}
}

// holes reports whether a file takes less space than it is long, so that it pays to look for them.
func holes(fd int) (size int64, sparse bool) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, false
	}
	return st.Size, st.Size >= sparseSize && st.Blocks*512 < st.Size
}

func (r *holeReader) Read(p []byte) (int, error) {
	if r.at >= r.end {
		if r.at >= r.size {
			if size, _ := holes(r.fd); size < r.size { // what looked like a hole was its end
				return 0, io.ErrUnexpectedEOF
			}
			return fdReader(r.fd).Read(p) // it may have grown
		}
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	p = p[:min(int64(len(p)), r.end-r.at)]
	if r.hole {
		clear(p)
		r.at += int64(len(p))
		return len(p), nil
	}
	n, err := fdReader(r.fd).Read(p)
	r.at += int64(n)
	return n, err
}

// next finds the extent that begins where the reader stands.
func (r *holeReader) next() (err error) {
	r.hole, r.end, err = extent(r.fd, r.at, r.size)
	if err == nil {
		skip := r.at
		if r.hole {
			skip = r.end
		}
		_, err = unix.Seek(r.fd, skip, io.SeekStart)
	}
	return os.NewSyscallError("lseek", err)
}

// extent tells whether there is a hole at a place of a file of a size, and where that, or the data, ends.
func extent(fd int, at, size int64) (hole bool, end int64, _ error) {
	data, err := unix.Seek(fd, at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // no data any more
		return true, size, nil
	case err != nil:
		return false, size, nil // the filesystem knows no holes
	case data > at:
		return true, min(data, size), nil
	}
	end, err = unix.Seek(fd, at, unix.SEEK_HOLE)
	if err != nil || end <= at {
		return false, size, err
	}
	return false, min(end, size), nil
}
