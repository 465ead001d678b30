package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/slipway-build/slipway/hack/conformance/daemon"
	"github.com/slipway-build/slipway/internal/cache/actions/actionstest"
	"github.com/slipway-build/slipway/internal/cache/bucket/buckettest"
)

// cachePlace is somewhere that BuildKit and slipway both keep caches.
type cachePlace struct {
	name  string
	entry func(name string) string // the value of --import-cache and --export-cache for a cache of that name
	index func(name string) []byte // what is there by that name
}

const cacheDockerfile = `FROM busybox AS tools
RUN echo tools > /tools
FROM busybox
COPY --from=tools /tools /tools
COPY file /file
RUN cat /tools /file > /both
`

// caches lets BuildKit and slipway export caches to the same places and import each other's. The index that
// BuildKit wrote is kept in a file for the tests.
func (r *recorder) caches(slipway, index string) error {
	srv := actionstest.New()
	defer srv.Close()
	const ref = "refs/heads/main"
	token := actionstest.Token(ref)
	github := func(version, url string) cachePlace {
		return cachePlace{"GitHub Actions, version " + version, func(name string) string {
			return fmt.Sprintf("type=gha,scope=%s-%s,token=%s,%s=%s", name, version, token, url, srv.URL)
		}, func(name string) []byte {
			return srv.Get(ref, fmt.Sprintf("index-%s-%s-1-%s#1", name, version, digest.FromString(ref).Encoded()[:8]))
		}}
	}
	s3, err := buckettest.New("b")
	if err != nil {
		return err
	}
	defer s3.Close()
	bucket := cachePlace{"S3", func(name string) string {
		return fmt.Sprintf("type=s3,bucket=b,region=eu-central-1,prefix=ci/,name=%s,endpoint_url=%s,use_path_style=true,access_key_id=%s,secret_access_key=%s",
			name, s3.URL, buckettest.ID, buckettest.Secret)
	}, func(name string) []byte { return s3.Get("b", "ci/manifests/"+name) }}
	d := <-r.daemons
	defer func() { r.daemons <- d }()
	for _, place := range []cachePlace{bucket, github("1", "url"), github("2", "url_v2")} {
		if err := r.compareCaches(d, slipway, place); err != nil {
			return fmt.Errorf("%s: %w", place.name, err)
		}
		if data := place.index("buildkit"); len(data) == 0 {
			return fmt.Errorf("%s: BuildKit wrote no index", place.name)
		} else if err := os.WriteFile(index, data, 0o644); err != nil {
			return err
		}
	}
	if p := append(srv.Problems(), s3.Problems()...); len(p) > 0 {
		return fmt.Errorf("requests that no client may send: %q", p)
	}
	return nil
}

func (r *recorder) compareCaches(d *daemon.Daemon, slipway string, place cachePlace) error {
	dir, err := os.MkdirTemp(r.dir, "caches-")
	if err != nil {
		return err
	}
	for name, text := range map[string]string{"Dockerfile": cacheDockerfile, "file": place.name} { // cached in no other place
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	buildkit := func(args ...string) (string, error) {
		if err := d.Prune(); err != nil {
			return "", err
		}
		args = append([]string{"--addr", d.Addr, "build", "--progress=plain", "--frontend", "dockerfile.v0",
			"--local", "context=" + dir, "--local", "dockerfile=" + dir}, args...)
		return output(exec.Command(d.Buildctl, args...))
	}
	own := func(store string, args ...string) (string, error) {
		cmd := exec.Command(slipway, append([]string{"build", "--progress=plain", "-o", "type=cacheonly", dir}, args...)...)
		cmd.Env = append(os.Environ(), "SLIPWAY_ROOT="+filepath.Join(dir, store), "SLIPWAY_CERTS_DIR="+r.certs)
		return output(cmd)
	}
	to := func(name string) string { return place.entry(name) + ",mode=max" }
	for _, step := range []struct {
		what        string
		run         func() (string, error)
		has, hasNot string
	}{
		{"BuildKit exports", func() (string, error) { return buildkit("--export-cache", to("buildkit")) }, "writing layer", "CACHED"},
		{"BuildKit imports its own", func() (string, error) { return buildkit("--import-cache", place.entry("buildkit")) }, "CACHED", "ERROR"},
		{"slipway imports BuildKit's", func() (string, error) { return own("one", "--cache-from", place.entry("buildkit")) }, "none of its records is slipway's", "CACHED"},
		{"slipway exports", func() (string, error) { return own("one", "--cache-to", to("slipway")) }, "writing layer", "ERROR"},
		{"slipway imports its own", func() (string, error) { return own("two", "--cache-from", place.entry("slipway")) }, "CACHED", "ERROR"},
		{"BuildKit imports slipway's", func() (string, error) { return buildkit("--import-cache", place.entry("slipway")) }, "importing cache manifest", "ERROR"},
		{"slipway exports where BuildKit did", func() (string, error) { return own("one", "--cache-to", to("buildkit")) }, "exporting", "ERROR"},
		{"BuildKit exports again", func() (string, error) {
			return buildkit("--export-cache", to("buildkit"), "--import-cache", place.entry("buildkit"))
		}, "exporting", "ERROR"},
		{"BuildKit imports that", func() (string, error) { return buildkit("--import-cache", place.entry("buildkit")) }, "CACHED", "ERROR"},
	} {
		out, err := step.run()
		if err != nil || !strings.Contains(out, step.has) || strings.Contains(out, step.hasNot) {
			return fmt.Errorf("%s: %v, want %q and not %q:\n%s", step.what, err, step.has, step.hasNot, out)
		}
		fmt.Printf("%s: %s\n", place.name, step.what)
	}
	return nil
}

func output(cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}
