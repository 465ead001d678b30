package kubernetes

import (
	"encoding/json"
	"maps"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// parted is a context of stages that do not need each other, and wait at gates of a name: three with a RUN, and one that has files of all. Its base is the
// same for all platforms, so that a label can stand for a node of another one.
func (c *cluster) parted(t *testing.T, name string) string {
	return c.files(t, map[string]string{"Dockerfile": `FROM --platform=$BUILDPLATFORM busybox AS files
FROM scratch AS base
COPY --from=files / /
FROM --platform=$BUILDPLATFORM busybox AS built
ARG TARGETARCH
RUN ` + c.gate(name+"-built") + ` && echo built for $TARGETARCH >/built
FROM base AS one
RUN ` + c.gate(name+"-one") + ` && echo one >/one
FROM base AS two
RUN ` + c.gate(name+"-two") + ` && echo two >/two
FROM base
COPY --from=built /built /
COPY --from=one /one /
COPY --from=two /two /
RUN cat /built /one /two >/all
`})
}

// openAll opens the gates of a parted context.
func (c *cluster) openAll(t *testing.T, name string) {
	t.Helper()
	for _, stage := range []string{"built", "one", "two"} {
		c.open(t, name+"-"+stage)
	}
}

// workers builds stages for two platforms in Jobs of their own, of which never more than two are there. The image is that of one Job.
func (c *cluster) workers(t *testing.T) {
	c.secondArchitecture(t)
	dir, meta := c.parted(t, "workers"), filepath.Join(t.TempDir(), "meta.json")
	jobs := c.watchJobs(t, "privileged")
	args := []string{"--push", "--platform=linux/amd64,linux/arm64", "--metadata-file=" + meta, dir}
	p := c.start(t, nil, c.on("privileged", "workers", append([]string{"--workers=2"}, args...)...)...)
	eventually(t, "two stages are built at the same time", func() bool {
		return len(c.asked(t, "GET /gate/"+c.team+"workers-.* 0 ")) == 2
	})
	c.openAll(t, "workers")
	must(t, p.wait(0), `\[one linux/arm64\] pod \S+ runs on node n2\n`, `\[two linux/arm64\] pod \S+ runs on node n2\n`, `!one Job builds all`)
	// Four stages for each platform, of which one has the builder's, and the result.
	want := map[string]int{"amd64": 6, "arm64": 3}
	eventually(t, "all Jobs were seen, and are gone", func() bool { made, there := jobs.count(); return maps.Equal(made, want) && there == 0 })
	if most := jobs.most(); most != 2 {
		t.Errorf("%d Jobs at once, want 2", most)
	}
	digest, name := digestOf(t, meta), host+"/"+c.team+"/workers"
	for _, arch := range []string{"amd64", "arm64"} {
		c.shows(t, name, arch)
	}
	c.start(t, nil, c.on("privileged", "workers-one", append([]string{"--no-cache"}, args...)...)...).wait(0)
	if one := digestOf(t, meta); one != digest {
		t.Errorf("the image is %s, that of one Job %s", digest, one)
	}
	c.empty(t, "privileged")
}

// workersCut is a node that is off the network while several Jobs build: what ran there runs on the other one.
func (c *cluster) workersCut(t *testing.T) {
	p := c.start(t, nil, c.on("privileged", "workers-cut", "--push", "--workers=3", c.parted(t, "workers-cut"))...)
	eventually(t, "three stages are built at the same time", func() bool {
		return len(c.asked(t, "GET /gate/"+c.team+"workers-cut-.* 0 ")) == 3
	})
	node := p.saw(`runs on node n(\d)`)
	c.cutOff(t, node, "privileged")
	p.saw(`is lost \(the node of the pod does not answer\)(?s:.*)runs on node n[^` + node + `]`)
	c.openAll(t, "workers-cut")
	p.wait(0)
	c.shows(t, host+"/"+c.team+"/workers-cut", "amd64")
}

// shows runs the image of a parted context.
func (c *cluster) shows(t *testing.T, name, arch string) {
	t.Helper()
	certs := c.files(t, map[string]string{host + "/hosts.toml": "server = \"http://" + host + "\"\n"})
	must(t, c.start(t, nil, "--certs-dir="+certs, "run", "--rm", "--pull=always", "--platform=linux/"+arch, name, "cat", "/all").wait(0), "built for "+arch+"\none\ntwo\n$")
}

// secondArchitecture has a label say that the second node is of another architecture, until the end of the test: the kubelet puts its own back every ten seconds.
func (c *cluster) secondArchitecture(t *testing.T) {
	const key = "kubernetes.io/arch"
	c.watch(t, []string{"get", "node", "n2", "--watch", "-o", "json"}, func(dec *json.Decoder) error {
		var node struct {
			Metadata struct{ Labels map[string]string }
		}
		if err := dec.Decode(&node); err != nil || node.Metadata.Labels[key] == "arm64" {
			return err
		}
		return exec.Command("./cluster.sh", "client", "kubectl", "label", "--overwrite", "node", "n2", key+"=arm64").Run()
	})
	t.Cleanup(func() { c.kubectl(t, "", "label", "--overwrite", "node", "n2", key+"=amd64") })
}

// watch has what kubectl prints read until the end of the test.
func (c *cluster) watch(t *testing.T, args []string, next func(*json.Decoder) error) {
	t.Helper()
	cmd := exec.Command("./cluster.sh", append([]string{"client", "kubectl"}, args...)...)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for dec := json.NewDecoder(out); next(dec) == nil; { // until it is ended
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-ended
		_ = cmd.Wait() // killed
	})
}

// jobs are those of a namespace as they come and go; one that is deleted is none, though its pod may be still about to go.
type jobs struct {
	mu       sync.Mutex
	there    map[string]bool
	made     map[string]string // the architecture of the node that it wants
	mostOnce int
}

// watchJobs watches them until the end of the test.
func (c *cluster) watchJobs(t *testing.T, namespace string) *jobs {
	j := &jobs{there: map[string]bool{}, made: map[string]string{}}
	c.watch(t, []string{"-n", namespace, "get", "jobs", "-l", "app.kubernetes.io/managed-by=slipway", "--watch", "--output-watch-events", "-o", "json"}, func(dec *json.Decoder) error {
		var change struct {
			Type   string
			Object struct {
				Metadata struct {
					Name              string
					DeletionTimestamp *time.Time
				}
				Spec struct {
					Template struct {
						Spec struct{ NodeSelector map[string]string }
					}
				}
			}
		}
		err := dec.Decode(&change)
		if o := &change.Object; err == nil {
			j.see(o.Metadata.Name, o.Spec.Template.Spec.NodeSelector["kubernetes.io/arch"], change.Type != "DELETED" && o.Metadata.DeletionTimestamp == nil)
		}
		return err
	})
	return j
}

func (j *jobs) see(name, arch string, there bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.made[name] = arch; there {
		j.there[name] = true
	} else {
		delete(j.there, name)
	}
	j.mostOnce = max(j.mostOnce, len(j.there))
}

// count gives how many there were of each architecture, and how many there are.
func (j *jobs) count() (made map[string]int, there int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	made = map[string]int{}
	for _, arch := range j.made {
		made[arch]++
	}
	return made, len(j.there)
}

// most is how many there were at once.
func (j *jobs) most() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.mostOnce
}
