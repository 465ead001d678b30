// Package kubernetes builds on a real Kubernetes, which cluster.sh starts on this machine: make kubernetes.
package kubernetes

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestKubernetes builds in a cluster, as docs/kubernetes.md tells it and with the role that it has, and does to pods, nodes and the API server what
// happens to them.
func TestKubernetes(t *testing.T) {
	c := newCluster(t)
	for _, one := range []struct {
		name string
		test func(*cluster, *testing.T)
	}{
		{"levels", (*cluster).levels}, {"home", (*cluster).home}, {"inputs", (*cluster).inputs}, {"bake", (*cluster).bake}, {"buildx", (*cluster).buildx}, {"credentials", (*cluster).credentials},
		{"architecture", (*cluster).architecture}, {"interrupt", (*cluster).interrupt}, {"lost", (*cluster).lost}, {"killed", (*cluster).killed},
		{"server", (*cluster).server}, {"twice", (*cluster).twice}, {"joined", (*cluster).joined}, {"cut", (*cluster).cut}, {"workers", (*cluster).workers}, {"workers-cut", (*cluster).workersCut},
	} {
		t.Run(one.name, func(t *testing.T) { one.test(c, t) })
	}
}

// app is a context whose image is the same wherever it is built.
func (c *cluster) app(t *testing.T) string {
	return c.files(t, map[string]string{
		"src/main.c": "code\n", "token": "s3cret\n",
		".dockerignore": "token\n",
		"Dockerfile": `FROM busybox AS tools
RUN echo tools >/made
FROM busybox
COPY --from=tools /made /
RUN --mount=type=secret,id=token cp /run/secrets/token /secret && chown 7:8 /secret
COPY src /src
`,
	})
}

// levels builds at each level of Pod Security; the image is the same.
func (c *cluster) levels(t *testing.T) {
	dir := c.app(t)
	digests := map[string]string{}
	for _, level := range []string{"privileged", "baseline"} {
		meta := filepath.Join(t.TempDir(), "meta.json")
		said := c.start(t, nil, c.on(level, "levels:"+level, "--push", "--no-cache", "--secret=id=token,src="+filepath.Join(dir, "token"), "--metadata-file="+meta, dir)...).wait(0)
		must(t, said, map[string]string{
			"privileged": `hostUsers: false, SYS_ADMIN\): steps are isolated, and root in them is nobody on the node`,
			"baseline":   `baseline \(RuntimeDefault\): steps run in place`,
		}[level])
		c.empty(t, level)
		digests[level] = digestOf(t, meta)
	}
	if digests["privileged"] != digests["baseline"] {
		t.Errorf("the images are not the same: %q", digests)
	}
	// containerd leaves the root directory of a container to root, whatever the image says: no other user can build there.
	said := c.start(t, nil, c.on("restricted", "levels:restricted", "--push", "--no-cache", "--secret=id=token,src="+filepath.Join(dir, "token"), dir)...).wait(1)
	must(t, said, `restricted \(user 1000\): steps run in place`, `user 1000 cannot write to /`)
	c.empty(t, "restricted")
}

func digestOf(t *testing.T, meta string) string {
	t.Helper()
	data, err := os.ReadFile(meta)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	d, _ := m["containerimage.digest"].(string)
	if d == "" {
		t.Fatalf("no digest: %s", data)
	}
	return d
}

// home brings the image home.
func (c *cluster) home(t *testing.T) {
	dir := c.app(t)
	id := strings.TrimSpace(c.start(t, nil, c.on("baseline", "home:v1", "--load", "-q", "--secret=id=token,src="+filepath.Join(dir, "token"), dir)...).wait(0))
	got := c.start(t, nil, "inspect", "--format={{.Id}}", host+"/"+c.team+"/home:v1").wait(0)
	if strings.TrimSpace(got) != id {
		t.Errorf("the image here is %s, want %s", got, id)
	}
	must(t, c.start(t, nil, "run", "--rm", host+"/"+c.team+"/home:v1", "cat", "/src/main.c", "/secret", "/made").wait(0), "^code\ns3cret\ntools\n$")
	c.empty(t, "baseline")
}

// gated is a context with a step that waits at a gate, after one that is done.
func (c *cluster) gated(t *testing.T, name string) string {
	return c.files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo " + name + " >/first\nRUN echo waits for the gate && " + c.gate(name) + "\n"})
}

// interrupt is Ctrl-C: everything is gone then.
func (c *cluster) interrupt(t *testing.T) {
	p := c.start(t, nil, c.on("privileged", "interrupt", "--push", c.gated(t, "interrupt"))...)
	p.saw(`\d waits for the gate\n`)
	if err := unix.Kill(p.cmd.Process.Pid, unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	must(t, p.wait(130), "ERROR: interrupted: SIGINT\n$")
	c.empty(t, "privileged")
}

// lost is a pod that somebody deletes: another one goes on after the last step that has ended.
func (c *cluster) lost(t *testing.T) {
	p := c.start(t, nil, c.on("privileged", "lost", "--push", c.gated(t, "lost"))...)
	pod := p.saw(`pod (\S+) runs on node`)
	p.saw(`\d waits for the gate\n`)
	c.written(t, "lost")
	c.kubectl(t, "", "-n", "privileged", "delete", "pod", pod, "--wait=false")
	p.saw(`pod ` + pod + ` is lost`)
	c.open(t, "lost")
	must(t, p.wait(0), `starting again from the last finished step`, `CACHED`)
	c.empty(t, "privileged")
}

// written waits until the cache has a result since the build began to wait.
func (c *cluster) written(t *testing.T, gate string) {
	t.Helper()
	eventually(t, "the first step is in the cache", func() bool {
		return len(c.asked(t, "PUT /v2/"+c.team+"/cache/manifests/result-|GET /gate/"+c.team+gate)) > 1
	})
}

// killed is a process that the kernel kills.
func (c *cluster) killed(t *testing.T) {
	p := c.start(t, nil, c.on("baseline", "killed", "--push", c.gated(t, "killed"))...)
	pod := p.saw(`pod (\S+) runs on node`)
	p.saw(`\d waits for the gate\n`)
	pid := strings.TrimSpace(strings.Split(c.kubectl(t, "", "-n", "baseline", "get", "pod", pod, "-o", "jsonpath={.metadata.uid}"), "\n")[0])
	c.script(t, "kill", pid)
	p.saw(`pod ` + pod + ` is lost`)
	c.open(t, "killed")
	must(t, p.wait(0), `is lost \(its process was killed, exit code 137\)`)
	c.empty(t, "baseline")
}

// cut is a node that is off the network: the build goes on on another one.
func (c *cluster) cut(t *testing.T) {
	p := c.start(t, nil, c.on("privileged", "cut", "--push", c.gated(t, "cut"))...)
	node := p.saw(`runs on node n(\d)`)
	p.saw(`\d waits for the gate\n`)
	c.cutOff(t, node, "privileged")
	p.saw(`is lost \(the node of the pod does not answer\)(?s:.*)runs on node n[^` + node + `]`)
	c.open(t, "cut")
	p.wait(0)
}

// cutOff takes a node off the network until the end of the test, when builds are to leave nothing in a namespace.
func (c *cluster) cutOff(t *testing.T, node, namespace string) {
	t.Helper()
	c.script(t, "cut", node)
	t.Cleanup(func() {
		_ = exec.Command("./cluster.sh", "mend", node).Run() // the test may have ended
		c.kubectl(t, "", "wait", "--for=condition=Ready", "node", "--all", "--timeout=180s")
		c.empty(t, namespace)
	})
}

// server is the API server that begins anew.
func (c *cluster) server(t *testing.T) {
	p := c.start(t, nil, c.on("privileged", "server", "--push", c.gated(t, "server"))...)
	p.saw(`\d waits for the gate\n`)
	c.script(t, "restart", "kube-apiserver")
	p.saw(`the API server is not there, trying again`)
	eventually(t, "the API server is there again", func() bool {
		return exec.Command("./cluster.sh", "client", "kubectl", "get", "--raw", "/readyz").Run() == nil
	})
	c.open(t, "server")
	must(t, p.wait(0), `!is lost`)
	c.empty(t, "privileged")
}

// twice is one build by two clients at once, each in a Job of its own since it has a secret: each step is run by one of them.
func (c *cluster) twice(t *testing.T) {
	dir := c.files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo twice; sleep 11 && " + c.gate("twice") + "\n"})
	args := c.on("privileged", "twice", "--push", "--secret=id=dockerfile,src="+filepath.Join(dir, "Dockerfile"), dir)
	one := c.start(t, nil, args...)
	one.saw(`\d twice\n`)
	eventually(t, "the step is claimed", func() bool { return len(c.asked(t, "GET /gate/"+c.team+"twice 0")) > 0 })
	two := c.start(t, nil, args...)
	two.saw(`waiting for another machine`)
	c.open(t, "twice")
	one.wait(0)
	must(t, two.wait(0), `CACHED`)
	if n := len(c.asked(t, `GET /gate/`+c.team+`twice 0`)); n != 1 {
		t.Errorf("the step ran %d times", n)
	}
	c.empty(t, "privileged")
}

// joined is one build by three clients at once in one Job, and in another one when the first of them is interrupted.
func (c *cluster) joined(t *testing.T) {
	args := c.on("privileged", "joined", "--push", c.gated(t, "joined"))
	one := c.start(t, nil, args...)
	job := one.saw(`Job (slipway-\S+) in namespace privileged`)
	one.saw(`\d waits for the gate\n`)
	c.written(t, "joined")
	others := []*client{c.start(t, nil, args...), c.start(t, nil, args...)}
	for _, p := range others {
		p.saw(`joining Job ` + job + ` in namespace privileged of lab, which is there since`)
		p.saw(`pod ` + job + `-\S+ runs on node`)
	}
	if err := unix.Kill(one.cmd.Process.Pid, unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	one.wait(130)
	for _, p := range others {
		p.saw(`Job ` + job + ` is left: it`)
	}
	c.open(t, "joined")
	for _, p := range others {
		must(t, p.wait(0), `CACHED`)
	}
	c.empty(t, "privileged")
}

// credentials are the user's own, or those of a Secret that is there.
func (c *cluster) credentials(t *testing.T) {
	dir := c.files(t, map[string]string{"Dockerfile": "FROM busybox\nRUN echo private\n"})
	keys := "type=registry,ref=" + host + "/private/" + c.team + "/cache,mode=keys,registry.insecure=true"
	flags := func(tag string, more ...string) []string {
		return append([]string{
			"build", "--on=kubernetes://lab/privileged", "--on-image=" + host + "/slipway:latest", "--cache-to=" + keys, "--push",
			"--tag=" + host + "/private/" + c.team + "/" + tag,
		}, append(more, dir)...)
	}
	must(t, c.start(t, nil, flags("one")...).wait(1), `401 Unauthorized|authorization failed`)
	config := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, host, base64.StdEncoding.EncodeToString([]byte("anna:s3cret")))
	if err := errors.Join(os.MkdirAll(filepath.Join(c.work, ".docker"), 0o700), os.WriteFile(filepath.Join(c.work, ".docker/config.json"), []byte(config), 0o600)); err != nil {
		t.Fatal(err)
	}
	c.start(t, nil, flags("one")...).wait(0)
	c.kubectl(t, "", "-n", "privileged", "create", "secret", "docker-registry", c.team, "--docker-server="+host, "--docker-username=anna", "--docker-password=s3cret")
	must(t, c.start(t, nil, flags("two", "--on-registry-secret="+c.team)...).wait(0), "CACHED")
	must(t, c.start(t, nil, flags("three", "--on-registry-secret=nosuch", "--on-wait=20s")...).wait(1), `secret "nosuch" not found`)
	c.empty(t, "privileged")
	if n := len(c.asked(t, `PUT /v2/private/`+c.team+`/(one|two)/manifests/latest 201`)); n != 2 {
		t.Errorf("%d of 2 images were pushed", n)
	}
}

// inputs are a Dockerfile from standard input, and named contexts.
func (c *cluster) inputs(t *testing.T) {
	dir := c.files(t, map[string]string{"main/a": "a\n", "more/b": "b\n"})
	text := "FROM busybox\nCOPY . /main\nCOPY --from=more . /more\nRUN cat /main/a /more/b\n"
	said := c.start(t, strings.NewReader(text), c.on("privileged", "inputs", "--push", "--build-context=more="+filepath.Join(dir, "more"), "-f", "-", filepath.Join(dir, "main"))...).wait(0)
	must(t, said, `\d a\n.* b\n`)
	c.empty(t, "privileged")
}

// bake builds a target on what another one is, each in a Job.
func (c *cluster) bake(t *testing.T) {
	repo := host + "/" + c.team
	dir := c.files(t, map[string]string{"docker-bake.hcl": `
group "default" { targets = ["app"] }
target "base" { dockerfile-inline = "FROM busybox\nRUN echo base >/base\n" }
target "app" {
  dockerfile-inline = "FROM base\nRUN echo the $(cat /base)\n"
  contexts = { base = "target:base" }
  tags = ["` + repo + `/bake"]
  cache-to = ["type=registry,ref=` + repo + `/cache,mode=keys,registry.insecure=true"]
}
`})
	args := []string{"bake", "--on=kubernetes://lab/privileged", "--on-image=" + host + "/slipway:latest", "--push", "--file=" + filepath.Join(dir, "docker-bake.hcl")}
	must(t, c.start(t, nil, args...).wait(0), `\[base 2/2\] RUN`, `\d the base\n`)
	must(t, c.start(t, nil, args...).wait(0), `!the base\n`)
	c.empty(t, "privileged")
}

// architecture is a build of one, which runs on a node of that.
func (c *cluster) architecture(t *testing.T) {
	c.secondArchitecture(t)
	dir := c.files(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
	must(t, c.start(t, nil, c.on("privileged", "arm64", "--push", "--platform=linux/arm64", dir)...).wait(0), `runs on node n2\n`)
	must(t, c.start(t, nil, c.on("privileged", "ppc64le", "--push", "--platform=linux/ppc64le", "--on-wait=5s", dir)...).wait(1),
		`no node has place for the pod: 0/2 nodes are available: 2 node\(s\) didn't match Pod's node affinity/selector`, `ERROR: no pod has started in 5s`)
	c.empty(t, "privileged")
}
