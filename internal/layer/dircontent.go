package layer

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// content fills a new file.
func (w *DirWriter) content(f int, e *Entry) error {
	c := e.Content
	if l, ok := c.(*loaded); ok {
		if w.noClone || !Settled(l.content) {
			return w.loaded(f, l)
		}
		c = l.content
	}
	r, err := openRaw(c)
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := w.copy(f, r, e.Size)
	if err != nil {
		return err
	}
	w.size += n
	if n != e.Size {
		return fmt.Errorf("file changed while being read: got %d bytes, want %d", n, e.Size)
	}
	return unchanged(c, r)
}

// loaded fills a new file with content that was read ahead.
func (w *DirWriter) loaded(f int, l *loaded) error {
	data, _, err := l.wait()
	if err != nil {
		return err
	}
	w.size += int64(len(data))
	return writeSparse(f, data)
}

// copy writes what r has, which should be size bytes, to the new file f, and tells how much that was. A small
// file takes one read and one write; a large one stays in the kernel.
func (w *DirWriter) copy(f int, r io.Reader, size int64) (int64, error) {
	src, isFile := r.(fdReader)
	if isFile && !w.noClone {
		err := unix.IoctlFileClone(f, int(src))
		if err == nil {
			var st unix.Stat_t
			err = unix.Fstat(f, &st)
			return st.Size, err
		}
		w.noClone = true // EXDEV and EOPNOTSUPP hold for the next file as well
	}
	if isFile && size < aheadSize {
		return copySmall(f, src, size)
	}
	var n int64
	if isFile && size > copyBuffer {
		n = copyFile(f, int(src), size)
	}
	// One byte more than there should be tells that there is more.
	rest, err := CopySparse(fdWriter(f), io.LimitReader(r, size-n+1))
	return n + rest, err
}

// copySmall copies a file with one read and one write. It may be larger than it should be: the result tells.
func copySmall(f int, src fdReader, size int64) (int64, error) {
	buf := buffersFor(size).Get().(*[]byte)
	defer buffersFor(size).Put(buf)
	n, err := readSmall(src, (*buf)[:size+1])
	if err == nil {
		err = writeSparse(f, (*buf)[:n])
	}
	return int64(n), err
}

// writeSparse fills a new file.
func writeSparse(f int, data []byte) error {
	w := NewSparseWriter(fdWriter(f))
	if _, err := w.Write(data); err != nil {
		return err
	}
	return w.Flush()
}

// copyFile copies size bytes in the kernel, or fewer where that cannot be done or fails, with the holes that there
// are: both files then stand where it ended, and reading and writing the rest tells why.
func copyFile(dst, src int, size int64) (done int64) {
	if _, sparse := holes(src); !sparse {
		return copyRange(dst, src, size)
	}
	for done < size {
		hole, end, err := extent(src, done, size)
		if err != nil {
			break
		}
		from := done
		if hole {
			from = end
		}
		if _, err := unix.Seek(src, from, io.SeekStart); err != nil {
			break
		}
		if hole {
			if unix.Ftruncate(dst, end) != nil {
				break
			}
			if _, err := unix.Seek(dst, end, io.SeekStart); err != nil {
				break
			}
			done = end
			continue
		}
		n := copyRange(dst, src, end-done)
		if done += n; done < end {
			break
		}
	}
	// After an error the files may stand elsewhere.
	if _, err := unix.Seek(src, done, io.SeekStart); err != nil {
		return done
	}
	unix.Seek(dst, done, io.SeekStart) // as the one before, it cannot fail on a regular file
	return done
}

// copyRange copies size bytes in the kernel, or fewer where that cannot be done or fails: reading and writing
// the rest tells why.
func copyRange(dst, src int, size int64) (done int64) {
	for done < size {
		n, err := unix.CopyFileRange(src, nil, dst, nil, int(min(size-done, 1<<30)), 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			break
		}
		done += int64(n)
	}
	return done
}
