package build

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/slipway-build/slipway/internal/client"
)

// Whose caches a build has is said by where it is, and never by who asks over a network.
func TestProject(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"app", "other"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("app", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	app, link := filepath.Join(dir, "app"), filepath.Join(dir, "link")
	// A directory may have a name that looks like two.
	hostile := app + " (/" + filepath.Join(dir, "other") + ")"
	if err := os.MkdirAll(hostile, 0o755); err != nil {
		t.Fatal(err)
	}
	if hostile = filepath.Clean(hostile); hostile == app+" (/"+filepath.Join(dir, "other")+")" {
		t.Error("a directory can have the name of a project of two")
	}
	for _, c := range []struct {
		name string
		req  Request
		want string
	}{
		{"a directory", Request{Context: app}, app},
		{"with a Dockerfile in it", Request{Context: app, Dockerfile: filepath.Join(app, "Dockerfile.dev")}, app},
		{"by a link", Request{Context: link}, app},
		{"with a Dockerfile elsewhere", Request{Context: app, Dockerfile: filepath.Join(dir, "other", "Dockerfile")}, app + " (/" + filepath.Join(dir, "other") + ")"},
		{"a directory with that name", Request{Context: hostile}, hostile},
		{"a repository", Request{Context: "https://me:secret@example.com/app.git#main:sub"}, "https://xxxxx:xxxxx@example.com/app.git#main:sub"},
		{"a client's", Request{Context: "https://example.com/app.git", Client: &client.Client{}, Warm: true}, ""},
	} {
		b := &building{job: &job{}, req: c.req}
		if b.in, err = b.req.prepare(t.Context(), nil, nil); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := b.project(); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
		if warm := b.warm(); warm != nil {
			t.Errorf("%s: it is warm: %+v", c.name, warm)
		}
	}
	b := &building{job: &job{}, req: Request{Context: app, Warm: true, NoCache: true}}
	if b.in, err = b.req.prepare(t.Context(), nil, nil); err != nil {
		t.Fatal(err)
	}
	if b.warm() != nil {
		t.Error("what is to be made anew is warm")
	}
	b.in.temp = filepath.Join(dir, "temp")
	b.in.dirs[dockerfileName] = filepath.Join(b.in.temp, "dockerfile")
	if got := b.project(); got != app {
		t.Errorf("a Dockerfile that is nowhere: got %q", got)
	}
	b.in.dirs[contextName] = filepath.Join(b.in.temp, "empty")
	if got := b.project(); got != "" {
		t.Errorf("a context from standard input: got %q", got)
	}
	b.in.dirs[contextName] = app
	if b.req.NoCache = false; b.warm() == nil {
		t.Error("it is not warm")
	}
	if b.job.cold = true; b.warm() != nil {
		t.Error("what is built once more without warm caches is warm")
	}
}
