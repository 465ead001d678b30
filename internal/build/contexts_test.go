package build

import (
	"archive/tar"
	"bytes"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/slipway-build/slipway/internal/store"
)

func openStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func archive(t *testing.T, format tar.Format) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	h := &tar.Header{Name: "Dockerfile", Mode: 0o644, Size: 12, Format: format}
	if format == tar.FormatPAX {
		h.PAXRecords = map[string]string{"SLIPWAY.x": strings.Repeat("y", 600)}
	}
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "FROM scratch")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestPrepare compares what a request is taken for: the local sources that it has, and the
// frontend's options.
func TestPrepare(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, d := range []string{"ctx", "github.com/a/b", "other"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile("file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const text = "FROM scratch\n"
	tests := []struct {
		name          string
		req           Request
		stdin         string
		dirs          string // names
		attrs         string // NAME=VALUE, sorted; UPLOAD stands for the name of one
		file          string
		fails         string
		dockerfileDir string
	}{
		{name: "directory", req: Request{Context: "ctx"}, dirs: "context dockerfile", attrs: "filename=Dockerfile", file: "ctx/Dockerfile", dockerfileDir: "ctx"},
		{name: "file beside it", req: Request{Context: "ctx", Dockerfile: "other/D"}, dirs: "context dockerfile", attrs: "filename=D", file: "other/D", dockerfileDir: "other"},
		{name: "file from stdin", req: Request{Context: "ctx", Dockerfile: "-"}, stdin: text, dirs: "context dockerfile", attrs: "dockerfilekey=dockerfile filename=Dockerfile", file: "stdin"},
		{name: "file from a URL", req: Request{Context: "ctx", Dockerfile: "http://u:p@h/D"}, dirs: "context", file: "http://xxxxx:xxxxx@h/D"},
		{name: "git", req: Request{Context: "https://u:p@h/a.git#x:y"}, attrs: "context=https://u:p@h/a.git#x:y filename=Dockerfile", file: "https://xxxxx:xxxxx@h/a.git#x:y Dockerfile"},
		{name: "git, file in it", req: Request{Context: "git@h:a.git", Dockerfile: "sub/D"}, attrs: "context=git@h:a.git filename=sub/D", file: "git@h:a.git sub/D"},
		{name: "git, file of the host", req: Request{Context: "git@h:a.git", Dockerfile: "/d/D"}, dirs: "dockerfile", attrs: "context=git@h:a.git dockerfilekey=dockerfile filename=D", file: "/d/D", dockerfileDir: "/d"},
		{name: "git, file from stdin", req: Request{Context: "git@h:a.git", Dockerfile: "-"}, stdin: text, dirs: "dockerfile", attrs: "context=git@h:a.git dockerfilekey=dockerfile filename=Dockerfile", file: "stdin"},
		{name: "git without its scheme", req: Request{Context: "github.com/c/d"}, attrs: "context=github.com/c/d filename=Dockerfile", file: "github.com/c/d Dockerfile"},
		{name: "directory that looks like git", req: Request{Context: "github.com/a/b"}, dirs: "context dockerfile", attrs: "filename=Dockerfile", file: "github.com/a/b/Dockerfile", dockerfileDir: "github.com/a/b"},
		{name: "http", req: Request{Context: "http://h/c.tar"}, attrs: "context=http://h/c.tar filename=Dockerfile", file: "http://h/c.tar Dockerfile"},
		{name: "archive", req: Request{Context: "-"}, stdin: archive(t, tar.FormatUSTAR), attrs: "context=UPLOAD filename=Dockerfile", file: "- Dockerfile"},
		{name: "archive with extended header", req: Request{Context: "-"}, stdin: archive(t, tar.FormatPAX), attrs: "context=UPLOAD filename=Dockerfile", file: "- Dockerfile"},
		{name: "compressed", req: Request{Context: "-", Dockerfile: "D"}, stdin: "\x1f\x8b\x08...", attrs: "context=UPLOAD filename=D", file: "- D"},
		{name: "Dockerfile alone", req: Request{Context: "-"}, stdin: text, dirs: "context dockerfile", attrs: "dockerfilekey=dockerfile filename=Dockerfile", file: "stdin"},
		{name: "named", req: Request{Context: "ctx", Contexts: map[string]string{"a": "other", "context": "other", "i": "docker-image://x", "g": "https://h/a.git", "h": "http://h/f"}},
			dirs: "_context a context dockerfile", file: "ctx/Dockerfile", dockerfileDir: "ctx",
			attrs: "context:a=local:a context:context=local:_context context:g=https://h/a.git context:h=http://h/f context:i=docker-image://x filename=Dockerfile"},

		{name: "nothing", fails: `please specify build context (e.g. "." for the current directory)`},
		{name: "no such directory", req: Request{Context: "nosuch"}, fails: `unable to prepare context: path "nosuch" not found`},
		{name: "a file", req: Request{Context: "file"}, fails: `unable to prepare context: "file" is not a directory`},
		{name: "below a file", req: Request{Context: "file/x"}, fails: `unable to prepare context: stat file/x: not a directory`},
		{name: "scheme", req: Request{Context: "ext::x"}, fails: `unable to prepare context: path "ext::x" not found`},
		{name: "both", req: Request{Context: "-", Dockerfile: "-"}, fails: "invalid argument: can't use stdin for both build context and dockerfile"},
		{name: "ambiguous", req: Request{Context: "-", Dockerfile: "D"}, stdin: text, fails: "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles"},
		{name: "empty", req: Request{Context: "-"}, fails: "unable to prepare context: standard input is empty: want a tar archive or a Dockerfile"},
		{name: "no stdin", req: Request{Context: "-"}, stdin: "none", fails: "unable to prepare context: standard input is empty: want a tar archive or a Dockerfile"},
		{name: "no such named", req: Request{Context: "ctx", Contexts: map[string]string{"a": "nosuch"}}, fails: "failed to get build context a: stat nosuch: no such file or directory"},
		{name: "named file", req: Request{Context: "ctx", Contexts: map[string]string{"a": "file"}}, fails: "failed to get build context path a=file: not a directory"},
		{name: "target", req: Request{Context: "ctx", Contexts: map[string]string{"a": "target:b"}}, fails: "build context a=target:b: only docker buildx bake has contexts of this kind: use a stage of the Dockerfile"},
		{name: "no layout", req: Request{Context: "ctx", Contexts: map[string]string{"a": "oci-layout://ctx"}}, fails: `oci-layout reference "oci-layout://ctx" could not be resolved: reading OCI layout: open ctx/index.json: no such file or directory`},
		{name: "digest of a layout", req: Request{Context: "ctx", Contexts: map[string]string{"a": "oci-layout://ctx@sha256:1"}}, fails: `oci-layout reference "oci-layout://ctx@sha256:1" could not be resolved: invalid checksum digest length`},
	}
	s := openStore(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.req.Stdin = iotest.OneByteReader(strings.NewReader(tt.stdin)) // as slow as a pipe may be
			if tt.stdin == "none" {
				tt.req.Stdin = nil
			}
			in, err := tt.req.prepare(t.Context(), s, []string{""})
			if tt.fails != "" {
				if err == nil || err.Error() != tt.fails {
					t.Fatalf("error is %v, want %s", err, tt.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer in.close()
			var attrs []string
			for k, v := range in.attrs {
				if name, ok := strings.CutPrefix(v, "http://buildkit-session/"); ok {
					v = "UPLOAD"
					if data, err := os.ReadFile(in.uploads[name].Path); err != nil || string(data) != tt.stdin {
						t.Errorf("the upload is %q, %v", data, err)
					}
				}
				attrs = append(attrs, k+"="+v)
			}
			slices.Sort(attrs)
			if got := strings.Join(attrs, " "); got != tt.attrs {
				t.Errorf("options are %s\nwant %s", got, tt.attrs)
			}
			if got := strings.Join(slices.Sorted(maps.Keys(in.dirs)), " "); got != tt.dirs {
				t.Errorf("local sources are %s, want %s", got, tt.dirs)
			}
			if in.file != tt.file {
				t.Errorf("the Dockerfile is %s, want %s", in.file, tt.file)
			}
			if tt.dockerfileDir != "" && in.dirs[dockerfileName] != tt.dockerfileDir {
				t.Errorf("the Dockerfile is in %s, want %s", in.dirs[dockerfileName], tt.dockerfileDir)
			}
			if tt.file == "stdin" {
				if data, err := os.ReadFile(filepath.Join(in.dirs[dockerfileName], "Dockerfile")); err != nil || string(data) != tt.stdin {
					t.Errorf("the Dockerfile is %q, %v", data, err)
				}
			}
			if err := in.close(); err != nil {
				t.Fatal(err)
			}
			if in.temp != "" {
				if _, err := os.Lstat(in.temp); err == nil {
					t.Errorf("%s is left", in.temp)
				}
			}
		})
	}
}

// A directory that is used twice remembers its digests once.
func TestSharedDirectory(t *testing.T) {
	dir := t.TempDir()
	in, err := (&Request{Context: dir, Contexts: map[string]string{"a": dir, "b": dir + "/."}}).prepare(t.Context(), openStore(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	all := newDirectories(openStore(t))
	contexts := all.open(in)
	if contexts["a"] != contexts["context"] || contexts["b"] != contexts["a"] || contexts["dockerfile"] == contexts["context"] {
		t.Errorf("contexts are %v", contexts)
	}
	if err := all.close(); err != nil {
		t.Fatal(err)
	}
}
