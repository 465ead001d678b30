package build

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
)

// plainLog is how long a log is text. Most are shorter, and any program reads them.
const plainLog = 1 << 20

// logFile is the file of a build's log: the text itself until it is long, then compressed and with
// ".gz" after its name. One of the two is there at any time.
type logFile struct {
	path string
	file *os.File
	size int64
	zip  *gzip.Writer // nil as long as it is text
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
		if err := l.compress(); err != nil {
			return 0, fmt.Errorf("compressing %s: %w", l.path, err)
		}
	}
	l.size += int64(len(p))
	if l.zip != nil {
		return l.zip.Write(p)
	}
	return l.file.Write(p)
}

// compress puts a compressed file in the place of the text.
func (l *logFile) compress() (err error) {
	name := l.path + ".gz"
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	zip, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err == nil {
		_, err = io.Copy(zip, io.NewSectionReader(l.file, 0, l.size))
	}
	if err == nil {
		err = zip.Flush()
	}
	if err != nil {
		return errors.Join(err, f.Close(), os.Remove(name))
	}
	text := l.file
	l.file, l.zip = f, zip
	return errors.Join(text.Close(), os.Remove(l.path))
}

// Close ends the file.
func (l *logFile) Close() error {
	var err error
	if l.zip != nil {
		err = l.zip.Close()
	}
	return errors.Join(err, l.file.Close())
}
