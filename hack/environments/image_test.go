package environments

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-build/slipway/hack/bases/baseimage"
	"github.com/slipway-build/slipway/hack/bases/library"
)

// ownImageEnvironments are those in which slipway's own image is tried; the first one is what the others are compared with.
var ownImageEnvironments = []string{"privileged", "sys-admin", "unconfined", "pod-sys-admin", "docker", "pod", "restricted"}

// kanikosDockerfile has what kaniko's users have: a package's users, files of others, two stages.
const kanikosDockerfile = `FROM busybox AS builder
RUN mkdir /app && echo hello > /app/word && chown -R 12:34 /app && rm -r /home && mkdir -p /etc/app
FROM busybox
COPY --from=builder /app /app
RUN echo somebody:x:77:77::/:/bin/sh >> /etc/passwd && chown somebody /etc/passwd && cat /app/word > /made && test ! -e /kaniko/executor
`

// TestImage runs slipway's own images, which hack/image.sh left in SLIPWAY_IMAGES (see make image-test), as pipelines ran kaniko's: the same image comes out
// everywhere.
func TestImage(t *testing.T) {
	g, _ := ownGround(t)
	want := ""
	chosen := list("SLIPWAY_ENVIRONMENTS", nil)
	for i, env := range ownImageEnvironments {
		if i > 0 && len(chosen) > 0 && !slices.Contains(chosen, env) {
			continue
		}
		for _, image := range []Image{OwnImage, DebugImage} {
			t.Run(fmt.Sprintf("%s-%d", env, image), func(t *testing.T) {
				digest, err := tryImage(t, g, env, image)
				if want == "" {
					want = digest
				}
				if err == nil && digest != want {
					err = fmt.Errorf("the image is %s, and in the first environment %s", digest, want)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// ownGround is a ground for slipway's own images, and the registry of base images.
func ownGround(t *testing.T) (*Ground, http.Handler) {
	images := os.Getenv("SLIPWAY_IMAGES")
	if images == "" || os.Geteuid() != 0 {
		t.Skip("make image-test makes the images, as root")
	}
	g, library := smallGround(t, os.Getenv("SLIPWAY_PROGRAM"))
	g.Images = images
	return g, library
}

// smallGround is a ground for a program, with a registry of busybox alone, which is returned, too.
func smallGround(t *testing.T, program string) (*Ground, http.Handler) {
	l, err := library.Open(filepath.Join(t.TempDir(), "bases"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Make(t.Context(), "busybox"); errors.Is(err, baseimage.ErrMissing) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/dev/shm", "slipway-image-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	g, err := NewGround(dir, program, l.Handler())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g, l.Handler()
}

// tryImage builds in an environment, and returns the digest of what was made.
func tryImage(t *testing.T, g *Ground, name string, image Image) (string, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	all := Catalogue()
	env := all[slices.IndexFunc(all, func(e Environment) bool { return e.Name == name })]
	env.Image = image
	p, err := g.Open(env, strings.ReplaceAll(t.Name(), "/", "-"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.Workspace, "Dockerfile"), []byte(kanikosDockerfile), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"/kaniko/executor", "--context=dir://" + p.InWorkspace, "--dockerfile=Dockerfile", "--no-push", "--tar-path=" + p.InWorkspace + "/app.tar",
		"--digest-file=" + p.InWorkspace + "/out/digest", "--reproducible", "--cleanup", "--snapshot-mode=redo"}
	if image == DebugImage { // as scripts of GitLab's and Jenkins' do
		args = []string{p.Shell, "-ec", `mkdir -p /kaniko/.docker; echo "{}" > /kaniko/.docker/config.json; ` + strings.Join(args, " ") + "; ls /busybox/sh /kaniko/.docker/config.json"}
	}
	if output, code, err := p.Run(ctx, args...); err != nil || code != 0 {
		return "", fmt.Errorf("%v, exit code %d:\n%s", err, code, output)
	}
	digest, err := os.ReadFile(filepath.Join(p.Workspace, "out", "digest"))
	if err != nil {
		return "", err
	}
	if fi, err := os.Stat(filepath.Join(p.Workspace, "app.tar")); err != nil || fi.Size() == 0 {
		return "", fmt.Errorf("--tar-path: %v, %w", fi, err)
	}
	return string(digest), nil
}
