package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"

	"github.com/slipway-build/slipway/internal/registry/registrytest"
)

// printed is what a container has printed that has ended.
func (l *lab) printed(id string) string {
	l.t.Helper()
	ended := l.wait(id, containertypes.WaitConditionNextExit)
	l.start(id)
	code := ended()
	logs, err := l.ContainerLogs(l.t.Context(), id, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true})
	must(l.t, err)
	out, errs := output(l.t, logs)
	if code != 0 {
		l.t.Errorf("exit code %d: %s", code, errs)
	}
	return out
}

// TestTold: a container is told of as it was asked for.
func TestTold(t *testing.T) {
	l := newContainers(t)
	l.server.opt.Entitlements = []string{insecure}
	dir := t.TempDir()
	id := l.create("pwd", func(o *client.ContainerCreateOptions) {
		o.Config.WorkingDir = "/tmp/"
		o.HostConfig.Annotations = map[string]string{"a": "b"}
		o.HostConfig.Binds = []string{dir + ":/one:ro", "data:/two", "data2:/three:ro"}
		o.HostConfig.Mounts = []mount.Mount{{Type: mount.TypeBind, Source: dir, Target: "/four", ReadOnly: true}, {Type: mount.TypeVolume, Target: "/five", ReadOnly: true}}
	})
	c, err := l.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
	must(t, err)
	if c.Container.Config.WorkingDir != "/tmp" {
		t.Errorf("the working directory is %s", c.Container.Config.WorkingDir)
	}
	var modes []string
	for _, m := range c.Container.Mounts {
		modes = append(modes, fmt.Sprint(m.Destination, " ", m.Mode, " ", m.RW))
	}
	slices.Sort(modes)
	if got := strings.Join(modes, ", "); got != "/five z false, /four  false, /one ro false, /three ro false, /two z true" {
		t.Errorf("the mounts are %s", got)
	}
	img, err := l.ImageInspect(t.Context(), "busybox")
	must(t, err)
	if d := c.Container.ImageManifestDescriptor; d == nil || d.Digest != img.Descriptor.Digest || d.Platform == nil || d.Platform.Architecture != img.Architecture || d.Platform.OS != "linux" {
		t.Errorf("its manifest is %+v", d)
	}
	for version, want := range map[string]bool{"1.45": false, "1.47": false, "1.52": true} {
		doc, _ := l.get(http.MethodGet, "/v"+version+"/containers/json?all=1")
		row := doc.([]any)[0].(map[string]any)
		_, annotated := row["HostConfig"].(map[string]any)["Annotations"]
		if _, described := row["ImageManifestDescriptor"]; described != want || annotated != (version != "1.45") {
			t.Errorf("a list of %s has it: %t, and annotations: %t", version, described, annotated)
		}
	}
	for filter, want := range map[string]int{"a": 1, "a=b": 1, "a=c": 0} {
		list, err := l.ContainerList(t.Context(), client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("annotation", filter)})
		must(t, err)
		if len(list.Items) != want {
			t.Errorf("with the annotation %s there are %d", filter, len(list.Items))
		}
	}
}

// TestUnconfined: who may have a container without restrictions one by one, has them.
func TestUnconfined(t *testing.T) {
	l := newContainers(t)
	l.server.opt.Entitlements = []string{insecure}
	id := l.create("grep -e ^Seccomp: -e ^NoNewPrivs: /proc/self/status; grep -c '^proc /proc/' /proc/mounts; cat /proc/sys/kernel/domainname", func(o *client.ContainerCreateOptions) {
		o.Config.Domainname = "example.com"
		o.HostConfig.SecurityOpt = []string{"seccomp=unconfined", "writable-cgroups=false", "no-new-privileges"}
		o.HostConfig.MaskedPaths, o.HostConfig.ReadonlyPaths = []string{"/proc/keys"}, []string{}
	})
	own, err := os.ReadFile("/proc/self/status")
	must(t, err)
	seccomp := "Seccomp:\t0"
	for line := range strings.Lines(string(own)) {
		if strings.HasPrefix(line, "Seccomp:") {
			seccomp = strings.TrimSpace(line)
		}
	}
	if got, want := l.printed(id), "NoNewPrivs:\t1\n"+seccomp+"\n0\nexample.com\n"; got != want {
		t.Errorf("it printed %q, want %q", got, want)
	}
	c, err := l.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
	must(t, err)
	if h := c.Container.HostConfig; !slices.Equal(h.MaskedPaths, []string{"/proc/keys"}) || h.ReadonlyPaths == nil || len(h.ReadonlyPaths) > 0 {
		t.Errorf("it is told of as %q, %q", h.MaskedPaths, h.ReadonlyPaths)
	}
}

// TestBadSeccomp: what is no seccomp profile is refused, and nothing waits for who asked for one.
func TestBadSeccomp(t *testing.T) {
	l := newContainers(t)
	create := func(profile string) error {
		o := client.ContainerCreateOptions{Config: &containertypes.Config{Image: "busybox"}, HostConfig: &containertypes.HostConfig{SecurityOpt: []string{"seccomp=" + profile}}}
		_, err := l.ContainerCreate(t.Context(), o)
		return err
	}
	for _, profile := range []string{"{", `{"defaultAction":"SCMP_ACT_ALLOW"}`} {
		if err := create(profile); err == nil || !strings.Contains(err.Error(), "needs the entitlement") {
			t.Errorf("%s without an entitlement: %v", profile, err)
		}
	}
	l.server.opt.Entitlements = []string{insecure}
	for profile, want := range map[string]string{
		"{": "reading the seccomp profile",
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[null]}`:                   "a rule is null",
		`{"defaultAction":"SCMP_ACT_NOTIFY"}`:                                    "unknown action",
		`{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"]}`: "the flag SECCOMP_FILTER_FLAG_LOG",
		`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_NONE"]}`:  "compiling the seccomp profile",
	} {
		if err := create(profile); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", profile, err, want)
		}
	}
}

// TestLockedPanic: what panics leaves no lock behind.
func TestLockedPanic(t *testing.T) {
	held := false
	lock := func(context.Context) (func() error, error) {
		held = true
		return func() error { held = false; return nil }, nil
	}
	defer func() {
		if recover() == nil || held {
			t.Errorf("it is held: %t", held)
		}
	}()
	_ = locked(t.Context(), lock, func() error {
		if !held {
			t.Error("it is not held")
		}
		panic("bad")
	})
}

// TestSysctls: settings of the kernel are a container's own, or refused.
func TestSysctls(t *testing.T) {
	l := newContainers(t)
	l.server.opt.Entitlements = []string{hostNetwork}
	before, err := os.ReadFile("/proc/sys/kernel/shmmni")
	must(t, err)
	id := l.create("cat /proc/sys/kernel/shmmni /proc/sys/net/ipv4/ip_default_ttl; echo 1 2>/dev/null > /proc/sys/kernel/shmmni || echo ro", func(o *client.ContainerCreateOptions) {
		o.HostConfig.Sysctls = map[string]string{"kernel.shmmni": "77", "net.ipv4.ip_default_ttl": "33"}
	})
	if got := l.printed(id); got != "77\n33\nro\n" {
		t.Errorf("it printed %q", got)
	}
	if after, err := os.ReadFile("/proc/sys/kernel/shmmni"); err != nil || string(after) != string(before) {
		t.Errorf("the machine has %s, %v", after, err)
	}
	for name, network := range map[string]containertypes.NetworkMode{"kernel.panic": "none", "vm.swappiness": "none", "net/ipv4/ip_forward": "none", "net.ipv4.ip_forward": "host", "kernel.shmmni/../panic": "none", "net..ipv4.ip_forward": "none"} {
		o := client.ContainerCreateOptions{Config: &containertypes.Config{Image: "busybox"}, HostConfig: &containertypes.HostConfig{NetworkMode: network, Sysctls: map[string]string{name: "1"}}}
		if _, err := l.ContainerCreate(t.Context(), o); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "sysctl") {
			t.Errorf("%s: %v", name, err)
		}
	}
	o := client.ContainerCreateOptions{Config: &containertypes.Config{Image: "busybox"}, HostConfig: &containertypes.HostConfig{UsernsMode: "auto", Sysctls: map[string]string{"kernel.shmmni": "77"}}}
	if _, err := l.ContainerCreate(t.Context(), o); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "cannot be set in a user namespace") {
		t.Errorf("in a user namespace: %v", err)
	}
	id = l.create("true", func(o *client.ContainerCreateOptions) { o.HostConfig.Sysctls = map[string]string{"net.nosuch": "1"} })
	if _, err := l.ContainerStart(t.Context(), id, client.ContainerStartOptions{}); err == nil || !strings.Contains(err.Error(), "setting the sysctl net.nosuch") {
		t.Errorf("one that is not there: %v", err)
	}
}

// TestWrittenHosts: what a container writes to the files that are made for it is none of its changes, and in no image of it.
func TestWrittenHosts(t *testing.T) {
	l := newContainers(t)
	id := l.create("echo 10.1.2.3 own >> /etc/hosts && grep own /etc/hosts; head -c 40000000 /dev/zero >> /etc/hosts 2>/dev/null; test $(wc -c < /etc/hosts) -le 16777216 && echo bounded", nil)
	if got := l.printed(id); got != "10.1.2.3 own\nbounded\n" {
		t.Errorf("it printed %q", got)
	}
	diff, err := l.ContainerDiff(t.Context(), id, client.ContainerDiffOptions{})
	must(t, err)
	if len(diff.Changes) > 0 {
		t.Errorf("its changes are %+v", diff.Changes)
	}
	_, err = l.ContainerCommit(t.Context(), id, client.ContainerCommitOptions{Reference: "made:v1"})
	must(t, err)
	_, err = l.ContainerRemove(t.Context(), id, client.ContainerRemoveOptions{})
	must(t, err)
	made := l.create("grep -c own /etc/hosts || true", func(o *client.ContainerCreateOptions) { o.Config.Image = "made:v1" })
	if got := l.printed(made); got != "0\n" {
		t.Errorf("a container of its image printed %q", got)
	}
}

// TestVolumesFrom: a container has what others have, where it has nothing of its own.
func TestVolumesFrom(t *testing.T) {
	l := newContainers(t)
	l.server.opt.Entitlements = []string{insecure}
	dir := t.TempDir()
	first := l.create("true", func(o *client.ContainerCreateOptions) {
		o.Config.Volumes = map[string]struct{}{"/anonymous": {}}
		o.HostConfig.Binds = []string{dir + ":/host", "data:/data", "data:/own"}
		o.HostConfig.Tmpfs = map[string]string{"/tmpfs": ""}
	})
	second := l.create("touch /anonymous/x /own/x; touch /data/x || echo ro; grep -q ' /tmpfs ' /proc/mounts || echo none", func(o *client.ContainerCreateOptions) {
		o.HostConfig.Binds, o.HostConfig.VolumesFrom = []string{"other:/own"}, []string{first + ":ro", l.named(first)}
	})
	c, err := l.ContainerInspect(t.Context(), second, client.ContainerInspectOptions{})
	must(t, err)
	if len(c.Container.Mounts) != 4 {
		t.Errorf("its mounts are %+v", c.Container.Mounts)
	}
	if got := l.printed(second); got != "none\n" { // of the same one twice the last one counts
		t.Errorf("it printed %q", got)
	}
	third := l.create("touch /data/y 2>/dev/null || echo ro; ls /anonymous", func(o *client.ContainerCreateOptions) { o.HostConfig.VolumesFrom = []string{first + ":ro"} })
	_, err = l.ContainerRemove(t.Context(), first, client.ContainerRemoveOptions{RemoveVolumes: true})
	must(t, err)
	if got := l.printed(third); got != "ro\nx\n" {
		t.Errorf("it printed %q", got)
	}
	l.server.opt.Entitlements = nil
	o := client.ContainerCreateOptions{Config: &containertypes.Config{Image: "busybox"}, HostConfig: &containertypes.HostConfig{VolumesFrom: []string{third}}}
	if _, err := l.ContainerCreate(t.Context(), o); err == nil || !strings.Contains(err.Error(), "needs the entitlement") {
		t.Errorf("the host's files of another container: %v", err)
	}
}

// TestCopyToUser: what is copied as the container's user is his.
func TestCopyToUser(t *testing.T) {
	l := newContainers(t)
	for user, want := range map[string]string{"": "5:6", "nobody": "", "7": "7:0", "7:": "7:0", ":7": "0:7", "0:7": "0:7", "root": "0:0"} {
		id := l.create("stat -c %u:%g /tmp/f; id -u; id -g", func(o *client.ContainerCreateOptions) { o.Config.User = user })
		var archive bytes.Buffer
		w := tar.NewWriter(&archive)
		must(t, w.WriteHeader(&tar.Header{Name: "f", Mode: 0o644, Uid: 5, Gid: 6}))
		must(t, w.Close())
		_, err := l.CopyToContainer(t.Context(), id, client.CopyToContainerOptions{DestinationPath: "/tmp", Content: &archive, CopyUIDGID: true})
		must(t, err)
		f := strings.Fields(l.printed(id))
		if want == "" {
			want = f[1] + ":" + f[2]
		}
		if f[0] != want {
			t.Errorf("of %q it belongs to %s, want %s", user, f[0], want)
		}
	}
	id := l.create("true", func(o *client.ContainerCreateOptions) { o.Config.User = "nosuch" })
	_, err := l.CopyToContainer(t.Context(), id, client.CopyToContainerOptions{DestinationPath: "/tmp", Content: strings.NewReader(""), CopyUIDGID: true})
	if err == nil || !strings.Contains(err.Error(), "unable to find user nosuch") {
		t.Errorf("of nobody: %v", err)
	}
}

// named is the name of a container.
func (l *lab) named(id string) string {
	l.t.Helper()
	c, err := l.ContainerInspect(l.t.Context(), id, client.ContainerInspectOptions{})
	must(l.t, err)
	return strings.TrimPrefix(c.Container.Name, "/")
}

// TestPulledByDigest: an image that is pulled by its digest alone is there by it, until it is removed by it.
func TestPulledByDigest(t *testing.T) {
	l := newLab(t)
	reg := registrytest.Start(t)
	ref := reg.Host + "/team/app"
	l.load(ref + ":v1")
	res, err := l.ImagePush(t.Context(), ref+":v1", client.ImagePushOptions{})
	must(t, err)
	said, err := io.ReadAll(res)
	must(t, err)
	_, rest, _ := strings.Cut(string(said), `"Digest":"`)
	digest, _, _ := strings.Cut(rest, `"`)
	_, err = l.ImageRemove(t.Context(), ref+":v1", client.ImageRemoveOptions{})
	must(t, err)
	pinned := ref + "@" + digest
	for _, name := range []string{pinned, ref + ":v1@" + digest} {
		if _, err := l.ImageInspect(t.Context(), name); !errdefs.IsNotFound(err) {
			t.Fatalf("%s before it is pulled: %v", name, err)
		}
		pulled, err := l.ImagePull(t.Context(), name, client.ImagePullOptions{})
		must(t, err)
		must(t, pulled.Wait(t.Context()))
		if _, err := l.ImagePull(t.Context(), reg.Host+"/other@"+digest, client.ImagePullOptions{}); !errdefs.IsNotFound(err) {
			t.Errorf("another repository, which is not there, has it: %v", err)
		}
		c, err := l.ContainerCreate(t.Context(), client.ContainerCreateOptions{Config: &containertypes.Config{Image: name, Cmd: []string{"x"}}})
		if err != nil {
			t.Fatalf("a container of %s: %v", name, err)
		}
		row, err := l.ContainerList(t.Context(), client.ContainerListOptions{All: true})
		must(t, err)
		if row.Items[0].Image != name {
			t.Errorf("its image is %s", row.Items[0].Image)
		}
		_, err = l.ContainerRemove(t.Context(), c.ID, client.ContainerRemoveOptions{})
		must(t, err)
		if _, err := l.ImageInspect(t.Context(), reg.Host+"/other@"+digest); !errdefs.IsNotFound(err) {
			t.Errorf("it is an image of another repository: %v", err)
		}
		list, err := l.ImageList(t.Context(), client.ImageListOptions{})
		must(t, err)
		if len(list.Items) != 1 || len(list.Items[0].RepoTags) != 0 || !slices.Equal(list.Items[0].RepoDigests, []string{pinned}) {
			t.Errorf("the images are %+v", list.Items)
		}
		pruned, err := l.ImagePrune(t.Context(), client.ImagePruneOptions{})
		must(t, err)
		if len(pruned.Report.ImagesDeleted) > 0 {
			t.Errorf("pruned were %+v", pruned.Report)
		}
		saved, err := l.ImageSave(t.Context(), []string{pinned})
		must(t, err)
		var files []string
		archive := tar.NewReader(saved)
		for h, err := archive.Next(); err != io.EOF; h, err = archive.Next() {
			must(t, err)
			files = append(files, h.Name)
			if h.Name == "manifest.json" {
				var manifest []struct{ RepoTags []string }
				must(t, json.NewDecoder(archive).Decode(&manifest))
				if len(manifest) != 1 || len(manifest[0].RepoTags) > 0 {
					t.Errorf("the archive has the names %+v", manifest)
				}
			}
		}
		for _, want := range []string{"manifest.json", "index.json", "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:")} {
			if !slices.Contains(files, want) {
				t.Errorf("the archive has no %s: %q", want, files)
			}
		}
		gone, err := l.ImageRemove(t.Context(), pinned, client.ImageRemoveOptions{})
		must(t, err)
		if len(gone.Items) != 2 || gone.Items[0].Untagged != pinned {
			t.Errorf("what went is %+v", gone.Items)
		}
	}
}

// TestBadLayer: an image that no program can read does not hide the others.
func TestBadLayer(t *testing.T) {
	l := newLab(t)
	l.load("app:v1")
	reg := registrytest.Start(t)
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer([]byte("no archive"), types.OCIUncompressedLayer))
	must(t, err)
	config, err := img.ConfigFile()
	must(t, err)
	config.OS, config.Architecture = "linux", runtime.GOARCH
	img, err = mutate.ConfigFile(img, config)
	must(t, err)
	ref, err := name.ParseReference(reg.Host + "/bad:v1")
	must(t, err)
	must(t, remote.Write(ref, img))
	pulled, err := l.ImagePull(t.Context(), ref.String(), client.ImagePullOptions{})
	must(t, err)
	must(t, pulled.Wait(t.Context()))
	list, err := l.ImageList(t.Context(), client.ImageListOptions{Manifests: true})
	must(t, err)
	if len(list.Items) != 2 {
		t.Errorf("the images are %+v", list.Items)
	}
	_, err = l.DiskUsage(t.Context(), client.DiskUsageOptions{Images: true, Verbose: true})
	must(t, err)
	_, err = l.ImageRemove(t.Context(), ref.String(), client.ImageRemoveOptions{})
	must(t, err)
}

// TestStatuses: what clients ask for that cannot be is their mistake, or not there.
func TestStatuses(t *testing.T) {
	l := newLab(t)
	reg := registrytest.Start(t)
	for path, want := range map[string]int{
		"/build?platform=foobar": http.StatusBadRequest, "/images/create?fromSrc=" + reg.Host + "/nofile.tar": http.StatusNotFound, "/images/create?fromSrc=%252Fdata%252Ffile.tar": http.StatusBadRequest,
		"/images/create?fromSrc=http://127.0.0.1:1/x": http.StatusBadRequest,
	} {
		if doc, status := l.get(http.MethodPost, path); status != want {
			data, _ := json.Marshal(doc)
			t.Errorf("%s: %d, %s", path, status, data)
		}
	}
}
