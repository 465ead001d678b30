package layer

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"

	"github.com/klauspost/compress/zstd"

	"github.com/slipway-build/slipway/internal/gunzip"
)

// Compression is how a blob or archive is compressed.
type Compression string

// The compressions that are told apart by the first bytes of a stream.
const (
	Uncompressed Compression = ""
	Gzip         Compression = "gzip"
	Zstd         Compression = "zstd"
	Bzip2        Compression = "bzip2"
	Xz           Compression = "xz"
)

// ErrCompression marks a stream whose compression is known but cannot be read here.
var ErrCompression = errors.New("unsupported compression")

var magics = []struct {
	compression Compression
	magic       []byte
}{
	{Gzip, []byte{0x1f, 0x8b, 0x08}},
	{Zstd, []byte{0x28, 0xb5, 0x2f, 0xfd}},
	{Bzip2, []byte("BZh")},
	{Xz, []byte{0xfd, '7', 'z', 'X', 'Z', 0}},
}

// DetectCompression tells a compression by the first bytes of a stream; six of them suffice.
// Anything unknown counts as uncompressed.
func DetectCompression(head []byte) Compression {
	for _, m := range magics {
		if bytes.HasPrefix(head, m.magic) {
			return m.compression
		}
	}
	if len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}) {
		return Zstd // a skippable frame
	}
	return Uncompressed
}

// Decompress reads a stream of any of the compressions, or of none. Closing what it gives frees
// the decoder, which then reads r no more, and leaves r open. xz is read by the host's xz program; without one it is refused
// with ErrCompression.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 128<<10)
	head, err := br.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch c := DetectCompression(head); c {
	case Gzip:
		return gunzip.NewReader(br), nil
	case Zstd:
		zr, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(min(4, runtime.GOMAXPROCS(0))), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("reading zstd stream: %w", windowError(err))
		}
		return &zstdReader{zr}, nil
	case Bzip2:
		return io.NopCloser(bzip2.NewReader(br)), nil
	case Xz:
		return decompressXz(br)
	}
	return io.NopCloser(br), nil
}

// maxWindow is how many bytes a compressed stream may have the decoder remember. It is zstd's own limit: what
// was compressed with more (--long=28 and above) needs to be told to zstd, too.
const maxWindow = 128 << 20

// zstdReader explains the error of a stream that wants more.
type zstdReader struct{ *zstd.Decoder }

func (z *zstdReader) Read(p []byte) (int, error) {
	n, err := z.Decoder.Read(p)
	return n, windowError(err)
}

func (z *zstdReader) WriteTo(w io.Writer) (int64, error) {
	n, err := z.Decoder.WriteTo(w)
	return n, windowError(err)
}

func (z *zstdReader) Close() error {
	z.Decoder.Close()
	return nil
}

func windowError(err error) error {
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return fmt.Errorf("%w: zstd with a window of more than %d MiB (compress it without --long, or with --long=27)", ErrCompression, maxWindow>>20)
	}
	return err
}

// xzReader is the output of an xz process.
type xzReader struct {
	io.Reader
	cmd    *exec.Cmd
	stderr bytes.Buffer
	ended  bool
}

func decompressXz(r io.Reader) (io.ReadCloser, error) {
	program, err := exec.LookPath("xz")
	if err != nil {
		return nil, fmt.Errorf("%w: xz (install the xz program, or recompress with gzip or zstd)", ErrCompression)
	}
	x := &xzReader{cmd: exec.Command(program, "-d", "-c", "-q", "--memlimit-decompress=256MiB")}
	x.cmd.Stdin, x.cmd.Stderr = r, &x.stderr
	if x.Reader, err = x.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := x.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting xz: %w", err)
	}
	return x, nil
}

func (x *xzReader) Read(p []byte) (int, error) {
	if x.ended {
		return 0, io.EOF
	}
	n, err := x.Reader.Read(p)
	if err == io.EOF {
		x.ended = true
		if werr := x.cmd.Wait(); werr != nil {
			err = fmt.Errorf("decompressing with xz: %w: %s", werr, bytes.TrimSpace(x.stderr.Bytes()))
		}
	}
	return n, err
}

// Close ends the process, wherever it stands.
func (x *xzReader) Close() error {
	if !x.ended {
		x.ended = true
		x.cmd.Process.Kill()
		x.cmd.Wait() // its error is that it was killed
	}
	return nil
}
