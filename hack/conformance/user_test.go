package conformance

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-build/slipway/hack/environments"
)

// userSlipway is slipway as a user of the machine runs it.
type userSlipway struct {
	slipway
	t     *testing.T
	place *environments.Place
}

// Build implements Builder.
func (s *userSlipway) Build(dir *Dir, dockerfile string, options []string, output, dest string) ([]byte, bool, error) {
	args, err := s.args(dir, dockerfile, options, output, dest)
	if err != nil {
		return nil, false, err
	}
	// What a case's commands made of its context is root's.
	if err := s.place.Give(filepath.Dir(dest)); err != nil {
		return nil, false, err
	}
	var stderr bytes.Buffer
	code, err := s.place.Exec(s.t.Context(), io.Discard, &stderr, args...)
	return stderr.Bytes(), code != 0, err
}

// TestUserEqualsBuildKit is TestSlipwayEqualsBuildKit for a user of the machine. What is otherwise than for root stands in
// testdata/USER.list, a line each: "CASE/DOCKERFILE REASON". SLIPWAY_CONFORMANCE_USER is the environment, such as user or user-one.
func TestUserEqualsBuildKit(t *testing.T) {
	name := os.Getenv("SLIPWAY_CONFORMANCE_USER")
	if name == "" {
		t.Skip("make conformance-user runs it")
	}
	env, ok := environments.Find(name)
	if !ok || env.User == nil {
		t.Fatalf("no user %s", name)
	}
	list, err := os.ReadFile("testdata/" + name + ".list")
	if err != nil {
		t.Fatal(err)
	}
	otherwise := map[string]string{}
	for line := range strings.Lines(string(list)) {
		if of, reason, ok := strings.Cut(strings.TrimSpace(line), " "); ok && !strings.HasPrefix(line, "#") {
			otherwise[of] = reason
		}
	}
	r := newRoom(t)
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	program, err := environments.Program(t.Context(), repo)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(r.dir, "ground")
	if err := errors.Join(os.Chmod(r.dir, 0o711), os.Mkdir(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	ground, err := environments.NewGround(dir, program, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ground.Close)
	place, err := ground.Open(env, env.Name)
	if err != nil {
		t.Fatal(err)
	}
	place.Vars = append(place.Vars, "SLIPWAY_CERTS_DIR="+r.certs, "SLIPWAY_VERIFY=forms")
	r.builder = func(store string) Builder {
		if filepath.Dir(store) == r.dir { // root's directory
			store = filepath.Join(place.Home, "store")
		}
		return &userSlipway{slipway{store}, t, place}
	}
	r.compareAll(t, otherwise)
}
