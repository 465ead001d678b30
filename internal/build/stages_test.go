package build_test

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/errdefs"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/sandbox"
)

// await is a step that says it is there and waits until another one is, through a cache mount.
func await(me, other string) string {
	return "RUN --mount=type=cache,id=meet,target=/meet touch /meet/" + me + "; n=0; " +
		"until [ -e /meet/" + other + " ]; do n=$((n+1)); [ $n -lt 1000 ] || exit 9; usleep 10000; done\n"
}

func TestIndependentStagesRunAtTheSameTime(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox AS a\n"+await("a", "b")+
		"FROM busybox AS b\n"+await("b", "c")+
		"FROM busybox\n"+await("c", "a")+ // the stage that copies does not wait for the others
		"COPY --from=a /etc/passwd /a\nCOPY --from=b /etc/passwd /b\n")
	h.build(build.Request{})
}

func TestTarget(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", `
FROM busybox AS Base
RUN echo base-ran
FROM registry.invalid/never/pulled AS unused
RUN echo unused-ran
FROM base AS middle
RUN echo middle-ran
FROM middle
RUN echo last-ran
`)
	for target, want := range map[string]string{"BASE": "base-ran", "0": "base-ran", "middle": "base-ran middle-ran", "": "base-ran middle-ran last-ran"} {
		_, ev := h.build(build.Request{Target: target, NoCache: true})
		var got []string
		for _, l := range strings.Fields(ev.log.String()) {
			if strings.HasSuffix(l, "-ran") {
				got = append(got, l)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("target %q ran %q, want %q", target, got, want)
		}
	}
	for _, target := range []string{"nope", "4"} {
		_, _, err := h.try(build.Request{Target: target})
		if err == nil || !strings.Contains(err.Error(), `target stage "`+target+`" could not be found`) {
			t.Errorf("target %s gave %v", target, err)
		}
	}
}

// place returns the Dockerfile's line that an error points at.
func place(err error) int {
	for _, s := range errdefs.Sources(err) {
		for _, r := range s.Ranges {
			return int(r.Start.Line)
		}
	}
	return 0
}

func TestFailures(t *testing.T) {
	tests := []struct {
		name, dockerfile string
		line             int
		want             string
	}{
		{"run", "FROM busybox\nRUN true\nRUN exit 3\n", 3, `process "/bin/sh -c exit 3" did not complete successfully: exit code: 3`},
		{"no such command", "FROM busybox\nRUN [\"/nope\"]\n", 2, "/nope"},
		{"missing file", "FROM busybox\nCOPY missing.txt /\n", 2, `"/missing.txt": not found`},
		{"missing file in stage", "FROM busybox AS a\nFROM busybox\nCOPY --from=a /nope /\n", 3, "lstat /nope: no such file or directory"},
		{"unknown user", "FROM busybox\nCOPY --chown=nobody-here Dockerfile /\n", 2, "nobody-here"},
		{"secret", "FROM busybox\nRUN --mount=type=secret,id=key,required true\n", 2, "secret key: not found"},
		{"ssh", "FROM busybox\nRUN --mount=type=ssh,required true\n", 2, "no SSH key \"default\" forwarded from the client"},
		{"http", "FROM busybox\nADD http://127.0.0.1:1/file /\n", 2, "connection refused"},
		{"git", "FROM busybox\nADD http://127.0.0.1:1/repo.git /\n", 2, "error fetching default branch"},
		{"frontend", "# syntax=example.invalid/other:1\nFROM busybox\n", 1, "example.invalid/other:1"},
		{"instruction", "FROM busybox\nFETCH x\n", 2, "unknown instruction: FETCH"},
		{"unknown image", "FROM busybox:no-such-tag\n", 1, "busybox:no-such-tag"},
		{"empty", "", 0, "Dockerfile"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHarness(t)
			h.write("Dockerfile", tt.dockerfile)
			_, _, err := h.try(build.Request{Tags: []string{"app"}})
			if err == nil {
				t.Fatal("the build succeeded")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %q, want %q in it", err, tt.want)
			}
			if got := place(err); got != tt.line {
				t.Errorf("error points at line %d, want %d: %v", got, tt.line, err)
			}
			images, err := h.store.Images(context.Background())
			if err != nil || len(images) != 0 {
				t.Errorf("a failed build left images %v, %v", images, err)
			}
			if left, _ := filepath.Glob(filepath.Join(h.store.Root(), "tmp", "*", "*")); len(left) != 0 {
				t.Errorf("a failed build left %q", left)
			}
		})
	}
}

func TestMissingSourceIsNotExist(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox\nCOPY missing.txt /\n")
	if _, _, err := h.try(build.Request{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}

func TestFailureEndsSiblings(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", `
FROM busybox AS slow
RUN sleep 600
FROM busybox AS bad
RUN usleep 200000; exit 7
FROM busybox
COPY --from=slow /etc/passwd /
COPY --from=bad /etc/passwd /
`)
	began := time.Now()
	_, _, err := h.try(build.Request{})
	var exit *sandbox.ExitError
	if !errors.As(err, &exit) || exit.Code != 7 {
		t.Errorf("error is %v, want that of the stage that failed", err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("the build took %v: the slow stage was not ended", took)
	}
}

func TestCancel(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", "FROM busybox\nRUN echo started; sleep 600\n")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := errors.New("enough")
	sink := progress.SinkFunc(func(s *client.SolveStatus) {
		for _, l := range s.Logs {
			if strings.Contains(string(l.Data), "started") {
				cancel(stop)
			}
		}
	})
	_, err = h.builder.Build(ctx, build.Request{Context: h.context, Tags: []string{"app"}}, sink)
	if !errors.Is(err, stop) {
		t.Errorf("error is %v, want the cause", err)
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if string(after) != string(mounts) {
		t.Errorf("mounts before:\n%s\nafter:\n%s", mounts, after)
	}
}

// Files that are copied between stages have an inode each. A RUN that writes to one in place changes no other,
// and no export presents copies as hard links of one another.
func TestOwnInodes(t *testing.T) {
	h := newHarness(t)
	h.write("Dockerfile", `
FROM busybox AS a
RUN echo one > /file && ln /file /link
FROM a
COPY --from=a /file /copy1
COPY --from=a /file /copy2
COPY --from=a /file /link /both/
COPY --from=a /file /file /twice/
RUN echo two >> /copy1 && echo three >> /both/link && test "$(cat /file)" = one
FROM a AS again
RUN test "$(cat /file)" = one
`)
	out := filepath.Join(t.TempDir(), "out.tar")
	h.build(build.Request{Target: "1", Outputs: []build.Output{{Type: build.OutputTar, Dest: out}, {Type: build.OutputImage}}})
	h.build(build.Request{Target: "again", NoCache: true})

	copies, err := filepath.Glob(filepath.Join(h.store.Root(), "layers/*/fs/copy2"))
	if err != nil || len(copies) != 1 {
		t.Fatalf("layers with /copy2: %q, %v", copies, err)
	}
	var st syscall.Stat_t
	if err := syscall.Lstat(copies[0], &st); err != nil || st.Nlink != 1 {
		t.Errorf("/copy2 has %d links, %v", st.Nlink, err)
	}

	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := map[string]string{}
	for r := tar.NewReader(f); ; {
		hdr, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[hdr.Name] = string(data)
		if hdr.Typeflag == tar.TypeLink {
			got[hdr.Name] = "-> " + hdr.Linkname
		}
	}
	for name, want := range map[string]string{
		"file": "one\n", "link": "-> file", "copy1": "one\ntwo\n", "copy2": "one\n", "both/file": "one\n", "both/link": "one\nthree\n", "twice/file": "one\n",
	} {
		if got[name] != want {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
}

// More layers than mount(2) takes in its options.
func TestManyLayers(t *testing.T) {
	h := newHarness(t)
	var b strings.Builder
	b.WriteString("FROM busybox\n")
	for i := range 130 {
		if i%10 == 0 {
			fmt.Fprintf(&b, "RUN echo %d > /run-%d\n", i, i)
		} else {
			fmt.Fprintf(&b, "COPY Dockerfile /copy-%d\n", i)
		}
	}
	b.WriteString("RUN test $(ls -d /copy-* /run-* | wc -l) = 130\n")
	h.write("Dockerfile", b.String())
	h.build(build.Request{Tags: []string{"many"}})
	_, ev := h.build(build.Request{Tags: []string{"many"}})
	if ev.ranStep("RUN") || ev.ranStep("COPY") {
		t.Errorf("the second build ran %q", ev.ran)
	}
}
