package build

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"

	"github.com/slipway-build/slipway/internal/store"
)

// plainLog is how long a log is text. Most are shorter, and any program reads them.
const plainLog = 1 << 20

// logFile is the file of a build's log: the text itself until it is long, then compressed and with
// ".gz" after its name. One of the two is there at any time.
type logFile struct {
	path string
	file *os.File
	size int64
	lost int64        // bytes for which there was no space
	zip  *gzip.Writer // nil as long as it is text
	late *keptFile    // the file under it
}

// keptFile is a file whose end is kept in memory while there is no space for it, up to mostKept bytes: what is compressed
// cannot leave anything out.
type keptFile struct {
	*os.File
	kept []byte
}

const mostKept = 1 << 20

// Write implements io.Writer.
func (f *keptFile) Write(p []byte) (int, error) {
	f.kept = append(f.kept, p...)
	n, err := f.File.Write(f.kept)
	f.kept = f.kept[n:]
	if store.IsFull(err) && len(f.kept) <= mostKept {
		err = nil
	}
	return len(p), err
}

// flush writes what is kept.
func (f *keptFile) flush() error {
	_, err := f.File.Write(f.kept)
	return err
}

func createLog(path string) (*logFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &logFile{path: path, file: f}, nil
}

// Write implements io.Writer.
func (l *logFile) Write(p []byte) (int, error) {
	if l.zip == nil && l.size+int64(len(p)) > plainLog {
		err := l.compress()
		if store.IsFull(err) {
			l.lost += int64(len(p))
			return len(p), nil
		}
		if err != nil {
			return 0, fmt.Errorf("compressing %s: %w", l.path, err)
		}
	}
	if l.zip != nil {
		return l.zip.Write(p)
	}
	err := l.tellLost()
	if err == nil {
		err = l.text(p)
	}
	if store.IsFull(err) {
		// The step that filled the disk is tried once more when there is space again, and the build goes on.
		l.lost += int64(len(p))
		err = nil
	}
	return len(p), err
}

// text writes all of p to the text, or nothing.
func (l *logFile) text(p []byte) error {
	if _, err := l.file.WriteAt(p, l.size); err != nil {
		return errors.Join(err, l.file.Truncate(l.size))
	}
	l.size += int64(len(p))
	return nil
}

// tellLost says in the place of what was left out how much it was.
func (l *logFile) tellLost() error {
	if l.lost == 0 {
		return nil
	}
	err := l.text([]byte(l.note()))
	if err == nil {
		l.lost = 0
	}
	return err
}

func (l *logFile) note() string {
	return fmt.Sprintf("\n[%d bytes are left out: there was no space left]\n", l.lost)
}

// compress puts a compressed file in the place of the text.
func (l *logFile) compress() (err error) {
	name := l.path + ".gz"
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	late := &keptFile{File: f}
	zip, err := gzip.NewWriterLevel(late, gzip.BestSpeed)
	if err == nil {
		_, err = io.Copy(zip, io.NewSectionReader(l.file, 0, l.size))
	}
	if err == nil && l.lost > 0 {
		_, err = io.WriteString(zip, l.note())
	}
	if err == nil {
		err = zip.Flush()
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(name))
	}
	text := l.file
	l.file, l.zip, l.late, l.lost = f, zip, late, 0
	return errors.Join(text.Close(), os.Remove(l.path))
}

// Close ends the file.
func (l *logFile) Close() error {
	err := l.tellLost()
	if l.zip != nil {
		err = errors.Join(err, l.zip.Close(), l.late.flush())
	}
	return errors.Join(err, l.file.Close())
}
