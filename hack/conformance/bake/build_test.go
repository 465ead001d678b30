package bake

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-build/slipway/hack/bases/baseimage"
	"github.com/slipway-build/slipway/hack/conformance"
	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

// TestBuildEqualsBuildx builds the projects and compares with what buildx and BuildKit made of them.
func TestBuildEqualsBuildx(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	reg := registrytest.Start(t)
	ids, err := conformance.PushBases(reg.Host)
	if errors.Is(err, baseimage.ErrMissing) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	projects, err := Projects("cases")
	if err != nil || len(projects) == 0 {
		t.Fatalf("%d projects, %v", len(projects), err)
	}
	records, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.MkdirTemp("/dev/shm", "slipway-bake-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	certs := filepath.Join(root, "certs.d")
	if err := os.MkdirAll(filepath.Join(certs, "docker.io"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(certs, "docker.io", "hosts.toml"), fmt.Appendf(nil, "server = %q\n", reg.URL), 0o644); err != nil {
		t.Fatal(err)
	}
	s := newSlipway(t)
	s.root = filepath.Join(root, "store")
	s.base = append(s.base, "SLIPWAY_CERTS_DIR="+certs, "SLIPWAY_VERIFY=forms")
	for _, p := range projects {
		t.Run(p.Name, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join(records, p.Name+".json"))
			if err != nil {
				t.Fatalf("%v: make conformance makes it", err)
			}
			want := &Built{}
			if err := json.Unmarshal(data, want); err != nil {
				t.Fatal(err)
			}
			scratch := filepath.Join(root, p.Name)
			if err := os.Mkdir(scratch, 0o755); err != nil {
				t.Fatal(err)
			}
			got, err := p.Build(s, scratch, ids)
			if err != nil {
				t.Fatal(err)
			}
			want.leave(got)
			if lines := conformance.Diff(want.JSON(), got.JSON()); !slices.Equal(lines, p.Differs) {
				t.Errorf("slipway (+) differs from buildx with BuildKit (-):\n%s", strings.Join(lines, "\n"))
			}
		})
	}
}

// leave makes equal what differs on purpose (docs/differences.md): times of directories.
func (b *Built) leave(got *Built) {
	for name, r := range b.Targets {
		if g := got.Targets[name]; g != nil {
			conformance.LeaveTimes(r, g)
		}
	}
}
