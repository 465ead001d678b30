package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// endless reads the entries that next makes, until that gives nil.
type endless struct {
	next func(i int) []byte
	i    int
	rest []byte
}

func (e *endless) Read(p []byte) (int, error) {
	if len(e.rest) == 0 {
		if e.rest = e.next(e.i); e.rest == nil {
			return 0, io.EOF
		}
		e.i++
	}
	n := copy(p, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

// rawTar is a header as it stands in an archive, without the end of one.
func rawTar(h tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	h.Mode, h.Format = 0o755, tar.FormatPAX
	if err := w.WriteHeader(&h); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// hostileStreams are archives of gigabytes that ask for as much memory.
var hostileStreams = map[string]func(i int) []byte{
	"long names": func(i int) []byte {
		return rawTar(tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("n/", 10) + strings.Repeat("x", 200) + strconv.Itoa(i)})
	},
	"deep names": func(i int) []byte {
		return rawTar(tar.Header{Typeflag: tar.TypeReg, Name: strconv.Itoa(i) + "/" + strings.Repeat("n/", 1000) + "x"})
	},
	"directories": func(i int) []byte {
		return rawTar(tar.Header{Typeflag: tar.TypeDir, Name: "d" + strconv.Itoa(i)})
	},
	"short names": func(i int) []byte {
		return rawTar(tar.Header{Typeflag: tar.TypeReg, Name: strconv.Itoa(i)})
	},
	"the same name": func(i int) []byte {
		return rawTar(tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: strings.Repeat("x", 4000)})
	},
	"links": func(i int) []byte {
		return rawTar(tar.Header{Typeflag: tar.TypeSymlink, Name: strconv.Itoa(i), Linkname: strings.Repeat("x", 4000)})
	},
	"hard links to below": func(i int) []byte {
		return rawTar(tar.Header{Typeflag: tar.TypeLink, Name: strconv.Itoa(i), Linkname: strings.Repeat("x/", 2000) + "x"})
	},
	"attributes": func(i int) []byte {
		h := tar.Header{Typeflag: tar.TypeDir, Name: strconv.Itoa(i), PAXRecords: map[string]string{}}
		for j := range 10 {
			h.PAXRecords[fmt.Sprintf("SCHILY.xattr.user.a%d", j)] = strings.Repeat("v", 60<<10)
		}
		return rawTar(h)
	},
	"an attribute of a large header": func(i int) []byte { return rawTar(bulky(tar.TypeReg, i)) },
	"a link of a large header":       func(i int) []byte { return rawTar(bulky(tar.TypeSymlink, i)) },
	"one extended header": func(i int) []byte {
		if i == 0 {
			return rawHeader('x', "pax", 1<<30)
		}
		return bytes.Repeat([]byte("1"), 512)
	},
	"one long name": func(i int) []byte {
		if i == 0 {
			return rawHeader('L', "././@LongLink", 1<<30)
		}
		return bytes.Repeat([]byte("n"), 512)
	},
	"global headers": func(i int) []byte {
		if i > 300 {
			return nil
		}
		return globalHeader
	},
	"sparse map": func(i int) []byte { // of GNU's format 1.0, in front of the content
		switch i {
		case 0:
			return rawTarRecords(map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s", "GNU.sparse.realsize": "1000000000000"}, 1<<30)
		case 1:
			return append([]byte("100000000\n"), bytes.Repeat([]byte("1\n"), 251)...)
		}
		return bytes.Repeat([]byte("1\n"), 256)
	},
}

// bulky is a header of which most is forgotten.
func bulky(typ byte, i int) tar.Header {
	h := tar.Header{Typeflag: typ, Name: strconv.Itoa(i), PAXRecords: map[string]string{"comment": strings.Repeat("c", 200<<10)}}
	if h.PAXRecords["SCHILY.xattr.user.a"] = "v"; typ == tar.TypeSymlink {
		h.Linkname = strings.Repeat("x", 120)
	}
	return h
}

var globalHeader = rawTarGlobal()

func rawTarGlobal() []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": strings.Repeat("c", 1000<<10)}})
	if err := errors.Join(err, w.Flush()); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// rawTarRecords is an extended header by hand, as archive/tar writes no sparse files, and the header of a file.
func rawTarRecords(records map[string]string, size int) []byte {
	var text string
	for _, k := range sortedKeys(records) {
		line := " " + k + "=" + records[k] + "\n"
		n := len(line) + 2
		text += strconv.Itoa(n) + line
	}
	b := rawHeader('x', "pax", len(text))
	b = append(b, text...)
	b = append(b, make([]byte, -len(text)&511)...)
	return append(b, rawHeader('0', "s", size)...)
}

// What an archive makes its reader keep is bounded, however long it is. Each is read in a process of its own.
func TestReadTarMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("long: endless archives, each in a process of its own")
	}
	const bound = 8 << 20
	if name := os.Getenv("SLIPWAY_TEST_STREAM"); name != "" {
		var err error
		opt, x := TarOptions{MaxMemory: bound}, NewIndex()
		r := io.LimitReader(&endless{next: hostileStreams[strings.TrimSuffix(name, "+archive")]}, 128<<20)
		if strings.HasSuffix(name, "+archive") {
			err = ReadArchive(r, opt, x)
		} else {
			_, err = ReadTar(r, opt, x)
		}
		status, _ := os.ReadFile("/proc/self/status")
		fmt.Printf("%s\n", status)
		fmt.Println("error:", err)
		return
	}
	exe, err := filepath.Abs(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	peak := regexp.MustCompile(`VmHWM:\s+(\d+) kB`)
	asArchive := map[string]bool{"short names": true, "links": true, "attributes": true}
	for name := range hostileStreams {
		for _, kind := range []string{"", "+archive"} {
			if kind != "" && !asArchive[name] {
				continue
			}
			cmd := exec.Command(exe, "-test.run=^TestReadTarMemory$")
			// Garbage goes before it takes more than this, however seldom the collector has its turn: what is beyond is kept.
			cmd.Env = append(os.Environ(), "SLIPWAY_TEST_STREAM="+name+kind, "GOMEMLIMIT=48MiB")
			out, err := cmd.CombinedOutput()
			m := peak.FindSubmatch(out)
			if err != nil || m == nil {
				t.Errorf("%s: %v\n%s", name, err, out)
				continue
			}
			kb, _ := strconv.Atoi(string(m[1]))
			_, told, _ := strings.Cut(string(out), "error: ")
			t.Logf("%s%s: %d MB, %.120s", name, kind, kb>>10, told)
			if kb<<10 > 4*bound+(48<<20) { // what is garbage, and the program
				t.Errorf("%s: %d MB for a bound of %d", name, kb>>10, bound>>20)
			}
		}
	}
}
