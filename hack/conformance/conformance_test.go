package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-build/slipway/hack/bases/baseimage"
	"github.com/slipway-build/slipway/internal/cli"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
	"github.com/slipway-build/slipway/internal/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.Init()
	os.Exit(m.Run())
}

// slipway is slipway's command line with a store of its own.
type slipway struct{ root string }

// Build implements Builder.
func (s *slipway) Build(dir *Dir, dockerfile string, options []string, output, dest string) ([]byte, bool, error) {
	args, err := s.args(dir, dockerfile, options, output, dest)
	if err != nil {
		return nil, false, err
	}
	var stdout, stderr bytes.Buffer
	code := cli.Main(args, strings.NewReader(""), &stdout, &stderr)
	return stderr.Bytes(), code != 0, nil
}

func (s *slipway) args(dir *Dir, dockerfile string, options []string, output, dest string) ([]string, error) {
	args := []string{"slipway", "--root", s.root, "build", "--progress=rawjson", "-f", filepath.Join(dir.Dockerfiles, dockerfile),
		"-o", "type=" + output + ",dest=" + dest}
	for _, o := range options {
		flag := ""
		for prefix, f := range map[string]string{
			"build-arg:": "--build-arg=", "label:": "--label=", "target=": "--target=", "platform=": "--platform=", "context:": "--build-context=",
			"add-hosts=": "--add-host=", "force-network-mode=": "--network=", "shm-size=": "--shm-size=", "ulimit=": "--ulimit=",
			"allow=": "--allow=", "secret=": "--secret=", "attest:provenance=": "--attest=type=provenance,", "no-cache=": "--no-cache",
		} {
			if rest, ok := strings.CutPrefix(o, prefix); ok {
				flag = f + rest
			}
		}
		if flag == "" {
			return nil, fmt.Errorf("option %s has no flag", o)
		}
		args = append(args, dir.Expand(flag))
	}
	return append(args, dir.Context), nil
}

// TestSlipwayEqualsBuildKit builds every Dockerfile of every case and compares with what BuildKit
// made of it.
func TestSlipwayEqualsBuildKit(t *testing.T) {
	r := newRoom(t)
	r.builder = func(store string) Builder { return &slipway{root: store} }
	r.compareAll(t, nil)
}

// room is a directory with what cases need.
type room struct {
	dir, certs string
	layers     map[string]bool            // of base images
	builder    func(store string) Builder // with a store of that name
}

func newRoom(t *testing.T) *room {
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	reg := registrytest.Start(t)
	ids, err := PushBases(reg.Host)
	if errors.Is(err, baseimage.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/dev/shm", "slipway-conformance-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	certs := filepath.Join(dir, "certs.d")
	if err := os.MkdirAll(filepath.Join(certs, "docker.io"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(certs, "docker.io", "hosts.toml"), fmt.Appendf(nil, "server = %q\n", reg.URL), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SLIPWAY_CERTS_DIR", certs)
	t.Setenv("SLIPWAY_VERIFY", "forms")
	return &room{dir: dir, certs: certs, layers: ids}
}

// compareAll builds all cases; otherwise says of a Dockerfile (CASE/NAME) why it is not what it is for root.
func (r *room) compareAll(t *testing.T, otherwise map[string]string) {
	shared := r.builder(filepath.Join(r.dir, "store"))
	cases, err := Load("cases")
	if err != nil || len(cases) == 0 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	t.Run("cases", func(t *testing.T) { // ends when all cases have
		n := 0
		for _, c := range cases {
			want, err := ReadRecords(filepath.Join("testdata", "buildkit", c.Name+".json"))
			if err != nil {
				t.Errorf("%s: %v: make conformance makes it", c.Name, err)
				continue
			}
			for _, d := range c.Dockerfiles {
				if n++; testing.Short() && n%6 != 0 {
					continue // one of six is the short form
				}
				t.Run(c.Name+"/"+d, func(t *testing.T) {
					t.Parallel()
					scratch, err := os.MkdirTemp(r.dir, "case-")
					if err != nil {
						t.Fatal(err)
					}
					if want[d] == nil {
						t.Fatal("there is no record of it: make conformance makes it")
					}
					builder := shared
					if c.HasAgain() { // others must not fill its cache
						builder = r.builder(filepath.Join(scratch, "store"))
					}
					got, err := c.Build(builder, d, scratch, r.layers)
					if err != nil {
						t.Fatal(err)
					}
					text := compare(c, d, want[d], got)
					switch reason := otherwise[c.Name+"/"+d]; {
					case text != "" && reason == "":
						t.Error(text)
					case text == "" && reason != "":
						t.Errorf("it is what it is for root, and was to be otherwise: %s", reason)
					}
				})
			}
		}
	})
}

// compare says how a record differs in what it is not to.
func compare(c *Case, dockerfile string, want, got *Record) string {
	reason, allowed := c.Differs(dockerfile)
	// Where BuildKit says what went wrong, slipway may say more.
	if want.Error != "" && strings.Contains(got.Error, want.Error) {
		got.Error = want.Error
	}
	if len(want.Excerpt) == 0 {
		got.Excerpt = nil
	}
	LeaveTimes(want, got)
	lines := Diff(want.JSON(), got.JSON())
	if (want.Error == "") != (got.Error == "") {
		lines = []string{fmt.Sprintf("-error %q", want.Error), fmt.Sprintf("+error %q", got.Error)}
	}
	if strings.Join(lines, "\n") == strings.Join(allowed, "\n") {
		return ""
	}
	text := "slipway (+) differs from BuildKit (-)"
	if len(allowed) > 0 {
		text += " in other lines than it should, which is " + reason
	}
	return text + ":\n" + strings.Join(lines, "\n")
}
