package conformance

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
)

// archiveTime is the time of an archive's members.
var archiveTime = time.Date(2002, 3, 4, 5, 6, 7, 0, time.UTC)

// archive writes a tar archive into the context. The section archive/NAME has its members, one a
// line: "TYPE MODE UID:GID PATH [ARGUMENT...]", of a file the content, of a link the target, of a
// device its numbers; a word NAME=VALUE before the type is an extended attribute.
func (d *Dir) archive(to, name, compression string) error {
	spec, ok := d.archives[name]
	if !ok {
		return fmt.Errorf("there is no section archive/%s", name)
	}
	var plain bytes.Buffer
	tw := tar.NewWriter(&plain)
	for line := range strings.Lines(spec) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		h, content, err := member(strings.Fields(line))
		if err != nil {
			return fmt.Errorf("member %q: %w", line, err)
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.WriteString(tw, content); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	packed, err := compress(plain.Bytes(), compression)
	if err != nil {
		return err
	}
	return os.WriteFile(d.path(to), packed, 0o644)
}

func member(w []string) (*tar.Header, string, error) {
	h := &tar.Header{ModTime: archiveTime, Format: tar.FormatPAX, PAXRecords: map[string]string{}}
	for len(w) > 0 && strings.Contains(w[0], "=") {
		k, v, _ := strings.Cut(w[0], "=")
		h.PAXRecords["SCHILY.xattr."+k] = v
		w = w[1:]
	}
	if len(w) < 4 {
		return nil, "", fmt.Errorf("want TYPE MODE UID:GID PATH [ARGUMENT...]")
	}
	mode, err := strconv.ParseInt(w[1], 8, 64)
	if err != nil {
		return nil, "", err
	}
	if _, err := fmt.Sscanf(w[2], "%d:%d", &h.Uid, &h.Gid); err != nil {
		return nil, "", err
	}
	h.Mode, h.Name = mode, w[3]
	rest := strings.Join(w[4:], " ")
	switch w[0] {
	case "file":
		h.Typeflag, h.Size = tar.TypeReg, int64(len(rest))
		return h, rest, nil
	case "dir":
		h.Typeflag = tar.TypeDir
	case "symlink":
		h.Typeflag, h.Linkname = tar.TypeSymlink, rest
	case "link":
		h.Typeflag, h.Linkname = tar.TypeLink, rest
	case "fifo":
		h.Typeflag = tar.TypeFifo
	case "char", "block":
		h.Typeflag = tar.TypeChar
		if w[0] == "block" {
			h.Typeflag = tar.TypeBlock
		}
		if _, err := fmt.Sscanf(rest, "%d %d", &h.Devmajor, &h.Devminor); err != nil {
			return nil, "", err
		}
	default:
		return nil, "", fmt.Errorf("what is a %q?", w[0])
	}
	return h, "", nil
}

func compress(plain []byte, how string) ([]byte, error) {
	var out bytes.Buffer
	switch how {
	case "none":
		return plain, nil
	case "gzip":
		w := gzip.NewWriter(&out)
		if _, err := w.Write(plain); err != nil {
			return nil, err
		}
		err := w.Close()
		return out.Bytes(), err
	case "zstd":
		w, err := zstd.NewWriter(nil)
		if err != nil {
			return nil, err
		}
		return w.EncodeAll(plain, nil), w.Close()
	case "bzip2", "xz":
		cmd := exec.Command(how, "-c")
		cmd.Stdin, cmd.Stdout = bytes.NewReader(plain), &out
		err := cmd.Run()
		return out.Bytes(), err
	}
	return nil, fmt.Errorf("unknown compression %q", how)
}
