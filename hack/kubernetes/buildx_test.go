package kubernetes

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// buildx is the unmodified one of Docker, with its driver of this name: pods that serve, of slipway's image for that.
func (c *cluster) buildx(t *testing.T) {
	c.namespace(t, "buildx", "privileged")
	t.Cleanup(func() { c.kubectl(t, "", "delete", "namespace", "buildx", "--wait=false") })
	config := filepath.Join(c.files(t, map[string]string{"buildkitd.toml": fmt.Sprintf("[registry.%q]\n  http = true\n", host)}), "buildkitd.toml")
	home := t.TempDir()
	run := func(args ...string) *client {
		t.Helper()
		p := c.prepare(t, filepath.Join(c.dir, "run/pki/admin.kubeconfig"), nil, os.Getenv("SLIPWAY_BUILDX"), args...)
		p.cmd.Env = append(p.cmd.Env, "BUILDX_CONFIG="+home)
		p.begin()
		return p
	}
	create := func(name string, flags ...string) {
		t.Helper()
		opt := "image=" + host + "/slipway:daemon,namespace=buildx,timeout=3m"
		run(append([]string{"create", "--name=" + name, "--driver=kubernetes", "--driver-opt=" + opt}, flags...)...).wait(0)
		run("inspect", "--bootstrap", name).wait(0)
	}
	dir := c.app(t)
	build := func(name string, more ...string) string {
		t.Helper()
		return run(append([]string{"build", "--builder=" + name, "--secret=id=token,src=" + filepath.Join(dir, "token")}, append(more, dir)...)...).wait(0)
	}

	digests := map[string]bool{}
	for _, name := range []string{"two", "rootless"} {
		flags := map[string][]string{"two": {"--driver-opt=replicas=2"}, "rootless": {"--driver-opt=rootless=true"}}[name]
		create(name, append(flags, "--buildkitd-config="+config)...)
		meta := filepath.Join(t.TempDir(), "meta.json")
		build(name, "--output=type=image,push=true,rewrite-timestamp=true,name="+host+"/"+c.team+"/buildx:"+name, "--provenance=false", "--metadata-file="+meta)
		digests[digestOf(t, meta)] = true
		must(t, build(name, "--output="+t.TempDir()), `CACHED`) // by the same pod
	}
	if pods := c.kubectl(t, "", "-n", "buildx", "get", "pods", "-l", "app=two0", "-o", "name"); strings.Count(pods, "pod/") != 2 {
		t.Errorf("pods of two replicas: %q", pods)
	}
	if len(digests) != 1 {
		t.Errorf("the images are not the same: %v", digests)
	}

	// A pod that is another one has what was built before.
	c.kubectl(t, fmt.Sprintf(volume, c.dir), "apply", "-f", "-")
	t.Cleanup(func() { c.kubectl(t, "", "delete", "pv", "buildx", "--wait=false") })
	create("kept", "--driver-opt=persistent-volume-claim.requests.storage=1Gi")
	out := t.TempDir()
	build("kept", "--output="+out)
	if got, err := os.ReadFile(filepath.Join(out, "secret")); string(got) != "s3cret\n" {
		t.Errorf("what was built has %q, %v", got, err)
	}
	c.kubectl(t, "", "-n", "buildx", "delete", "pod", "kept0-0") // the set makes it anew
	run("inspect", "--bootstrap", "kept").wait(0)
	must(t, build("kept", "--output="+t.TempDir()), `RUN echo tools >/made\n#\d+ CACHED`)
}

// volume is on the first node.
const volume = `
apiVersion: v1
kind: PersistentVolume
metadata: {name: buildx}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  hostPath: {path: "%s/run/volume", type: DirectoryOrCreate}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [n1]}]}]}}
`
