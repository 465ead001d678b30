package control

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/slipway-build/slipway/internal/progress"
)

// maxTextLine is how much of a line of a log is read as a line.
const maxTextLine = 1 << 20

// replayText tells what a build of the command line has left: its steps, and what they printed, which is in a log that people read
// (progress.Log): "#NUMBER NAME" is a step that begins, "#NUMBER SECONDS TEXT" a line of its output.
func (k *kept) replayText(ctx context.Context, send func(*controlapi.StatusResponse) error) error {
	begun := &controlapi.StatusResponse{}
	byName := map[string][]*controlapi.Vertex{} // those that no number stands for yet, by what stands for their names there
	for _, v := range k.steps {
		b := v.CloneVT()
		b.Completed, b.Error, b.Cached = nil, "", false
		begun.Vertexes = append(begun.Vertexes, b)
		line := progress.NameLine(v.Name)
		byName[line] = append(byName[line], v)
	}
	if err := send(begun); err != nil {
		return err
	}
	log, err := k.openText()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err == nil {
		defer log.Close()
		if err := eachLine(ctx, log, byName, send); err != nil {
			return err
		}
	}
	return send(&controlapi.StatusResponse{Vertexes: k.steps})
}

// textFile stands for the events of a build of the command line, which are made of its log whenever somebody reads them.
const textFile = "text"

// maxTextLog is how long a log may be that a record has: it is read whenever records are listed anew. Longer ones are compressed.
const maxTextLog = 1 << 20

// addText adds the events of a build of the command line to its record.
func (k *kept) addText() {
	log, err := openKept(filepath.Join(k.dir, "log"))
	if err != nil {
		return // it has none
	}
	fi, err := log.Stat()
	log.Close() //nolint:errcheck // nothing was written
	if err != nil || fi.Size() > maxTextLog {
		return
	}
	sum := sha256.New()
	n, err := k.writeText(sum)
	if err != nil {
		return // whoever follows the build is told
	}
	d := digest.NewDigest(digest.SHA256, sum)
	k.files = map[digest.Digest]string{d: textFile}
	k.rec.Logs = &controlapi.Descriptor{MediaType: typeStatus, Digest: d.String(), Size: n}
}

// writeText writes the events of a build of the command line as those of others are kept.
func (k *kept) writeText(w io.Writer) (size int64, err error) {
	err = k.replayText(context.Background(), func(r *controlapi.StatusResponse) error {
		data, err := r.MarshalVT()
		if err != nil {
			return err
		}
		n, err := w.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(data))), data...))
		size += int64(n)
		return err
	})
	return size, err
}

// openEvents is a file of the events of a build of the command line.
func (k *kept) openEvents() (*os.File, error) {
	f, err := unnamedFile()
	if err == nil {
		_, err = k.writeText(f)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil && f != nil {
		err = errors.Join(err, f.Close())
		f = nil
	}
	return f, err
}

// openText opens the log.
func (k *kept) openText() (io.ReadCloser, error) {
	f, err := openKept(filepath.Join(k.dir, "log"))
	if err == nil {
		return f, nil
	}
	if f, err = openKept(filepath.Join(k.dir, "log.gz")); err != nil {
		return nil, err
	}
	zip, err := gzip.NewReader(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading the log of build %s: %w", k.name, err), f.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{zip, f}, nil
}

// eachLine tells the output of steps, by the names of those.
func eachLine(ctx context.Context, log io.Reader, byName map[string][]*controlapi.Vertex, send func(*controlapi.StatusResponse) error) error {
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, maxTextLine)
	numbers := map[int]*controlapi.Vertex{}
	out, size := &controlapi.StatusResponse{}, 0
	for lines.Scan() {
		number, text, ok := textLine(lines.Text())
		if !ok {
			continue
		}
		v, known := numbers[number]
		if !known {
			if same := byName[text]; len(same) > 0 {
				v, byName[text] = same[0], same[1:]
			}
			numbers[number] = v
			continue
		}
		seconds, printed, _ := strings.Cut(text, " ")
		since, err := strconv.ParseFloat(seconds, 64)
		if err != nil || v == nil || !strings.Contains(seconds, ".") {
			continue // it says how the step is
		}
		at := v.Started.AsTime().Add(time.Duration(since * float64(time.Second)))
		out.Logs = append(out.Logs, &controlapi.VertexLog{Vertex: v.Digest, Stream: 1, Timestamp: timestamppb.New(at), Msg: []byte(printed + "\n")})
		if size += len(printed); size >= maxOutput {
			if err := send(out); err != nil {
				return err
			}
			out, size = &controlapi.StatusResponse{}, 0
		}
		if err := context.Cause(ctx); err != nil {
			return err
		}
	}
	if len(out.Logs) > 0 {
		if err := send(out); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) { // it may be cut off
		return fmt.Errorf("reading the log of a build: %w", err)
	}
	return nil
}

// textLine takes a line of a log apart.
func textLine(line string) (number int, text string, ok bool) {
	rest, ok := strings.CutPrefix(line, "#")
	if !ok {
		return 0, "", false
	}
	digits, text, ok := strings.Cut(rest, " ")
	number, err := strconv.Atoi(digits)
	return number, text, ok && err == nil
}
