package docker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/moby/moby/api/pkg/stdcopy"
	containertypes "github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"github.com/slipway-build/slipway/hack/bases/baseimage"
	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

// TestMain makes this program the first process of containers, and what runs one.
func TestMain(m *testing.M) {
	sandbox.Init()
	if len(os.Args) == 4 && os.Args[1] == "monitor" {
		if err := monitor(os.Args[2], os.Args[3]); err != nil {
			os.Exit(1)
		}
		sandbox.Close()
		os.Exit(0)
	}
	code := m.Run()
	sandbox.Close()
	os.Exit(code)
}

// monitor runs a container of a store.
func monitor(root, id string) error {
	s, err := store.Open(root)
	if err != nil {
		return err
	}
	defer s.Close()
	dir, err := s.TempDir()
	if err != nil {
		return err
	}
	r, err := sandbox.New(sandbox.Options{StateDir: dir})
	if err != nil {
		return err
	}
	return (&container.Manager{Store: s, Runner: r}).Monitor(context.Background(), id, os.NewFile(3, "ready"))
}

// newContainers is a lab with busybox, in which containers can run.
func newContainers(t *testing.T) *lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	base, err := baseimage.Busybox()
	if errors.Is(err, baseimage.ErrMissing) {
		t.Skip(err)
	}
	must(t, err)
	l := newLab(t)
	// Each has an end of the pipe: at the end of all of them nothing in the store is anybody's any more.
	said, stderr, err := os.Pipe()
	must(t, err)
	l.server.opt.Monitor = func(id string) *exec.Cmd {
		return &exec.Cmd{Path: "/proc/self/exe", Args: []string{"docker.test", "monitor", l.store.Root(), id}, Dir: "/", Stderr: stderr}
	}
	ended := make(chan error)
	go func() {
		_, err := io.Copy(os.Stderr, said)
		ended <- errors.Join(err, said.Close())
	}()
	t.Cleanup(func() {
		must(t, stderr.Close())
		must(t, <-ended)
	})
	tag, err := name.NewTag("busybox:latest", name.WithDefaultRegistry(""))
	must(t, err)
	var archive bytes.Buffer
	must(t, tarball.Write(tag, base, &archive))
	res, err := l.ImageLoad(t.Context(), &archive)
	must(t, err)
	_, err = io.Copy(io.Discard, res)
	must(t, err)
	t.Cleanup(func() {
		list, err := l.ContainerList(context.Background(), client.ContainerListOptions{All: true})
		if err != nil {
			t.Error(err)
		}
		for _, c := range list.Items {
			if _, err := l.ContainerRemove(context.Background(), c.ID, client.ContainerRemoveOptions{Force: true}); err != nil {
				t.Error(err)
			}
		}
	})
	return l
}

// create makes a container that runs a script.
func (l *lab) create(script string, change func(*client.ContainerCreateOptions)) string {
	l.t.Helper()
	o := client.ContainerCreateOptions{Config: &containertypes.Config{Image: "busybox", Cmd: []string{"sh", "-c", script}}, HostConfig: &containertypes.HostConfig{NetworkMode: "none"}}
	if change != nil {
		change(&o)
	}
	c, err := l.ContainerCreate(l.t.Context(), o)
	must(l.t, err)
	return c.ID
}

func (l *lab) start(id string) {
	l.t.Helper()
	_, err := l.ContainerStart(l.t.Context(), id, client.ContainerStartOptions{})
	must(l.t, err)
}

// wait waits for a condition; ended gives the exit code.
func (l *lab) wait(id string, condition containertypes.WaitCondition) (ended func() int64) {
	w := l.ContainerWait(l.t.Context(), id, client.ContainerWaitOptions{Condition: condition})
	return func() int64 {
		l.t.Helper()
		select {
		case res := <-w.Result:
			return res.StatusCode
		case err := <-w.Error:
			l.t.Error(err)
			return -1
		}
	}
}

// stats is what a container uses.
func (l *lab) stats(id string) (u containertypes.StatsResponse) {
	l.t.Helper()
	res, err := l.ContainerStats(l.t.Context(), id, client.ContainerStatsOptions{})
	must(l.t, err)
	defer res.Body.Close()
	must(l.t, json.NewDecoder(res.Body).Decode(&u))
	return u
}

// output demultiplexes.
func output(t *testing.T, r io.Reader) (string, string) {
	t.Helper()
	var out, errs bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errs, r); err != nil {
		t.Error(err)
	}
	return out.String(), errs.String()
}

// TestRun is what `docker run -i --rm` does: attach, wait for the removal, start.
func TestRun(t *testing.T) {
	l := newContainers(t)
	id := l.create("cat; echo err >&2; exit 3", func(o *client.ContainerCreateOptions) {
		o.Config.OpenStdin, o.Config.StdinOnce, o.Config.AttachStdin, o.HostConfig.AutoRemove = true, true, true, true
	})
	a, err := l.ContainerAttach(t.Context(), id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true})
	must(t, err)
	defer a.Close()
	ended := l.wait(id, containertypes.WaitConditionRemoved)
	l.start(id)
	_, err = io.WriteString(a.Conn, "typed")
	must(t, err)
	must(t, a.CloseWrite()) // the output comes all the same
	if out, errs := output(t, a.Reader); out != "typed" || errs != "err\n" {
		t.Errorf("it printed %q and %q", out, errs)
	}
	if code := ended(); code != 3 {
		t.Errorf("the exit code is %d", code)
	}
	if _, err := l.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{}); err == nil {
		t.Error("it is there still")
	}
}

// TestAttachWithBody: a body of the request is no input, and what follows it is.
func TestAttachWithBody(t *testing.T) {
	l := newContainers(t)
	for _, upgrade := range []string{"", "Connection: Upgrade\r\nUpgrade: tcp\r\n"} {
		id := l.create("read x; echo got $x", func(o *client.ContainerCreateOptions) { o.Config.OpenStdin, o.Config.Tty = true, true })
		conn, err := net.Dial("tcp", strings.TrimPrefix(l.url, "http://"))
		must(t, err)
		defer conn.Close()
		_, err = io.WriteString(conn, "POST /containers/"+id+"/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\n"+upgrade+"Content-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"stream\":true}li")
		must(t, err)
		answer := bufio.NewReader(conn)
		for line := "x"; strings.TrimSpace(line) != ""; { // the head: the container is attached to
			line, err = answer.ReadString('\n')
			must(t, err)
		}
		l.start(id)
		_, err = io.WriteString(conn, "ne\n")
		must(t, err)
		if said, err := io.ReadAll(answer); err != nil || !strings.HasSuffix(string(said), "got line\r\n") {
			t.Errorf("%q: it printed %q, %v", upgrade, said, err)
		}
	}
}

// TestAttachWithChunks: a body without a length is not for the process, and nobody knows where it ends.
func TestAttachWithChunks(t *testing.T) {
	l := newContainers(t)
	id := l.create("cat", func(o *client.ContainerCreateOptions) { o.Config.OpenStdin, o.Config.StdinOnce = true, true })
	conn, err := net.Dial("tcp", strings.TrimPrefix(l.url, "http://"))
	must(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "POST /containers/"+id+"/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ntyped\r\n")
	must(t, err)
	if answer, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(answer, " 400 ") {
		t.Errorf("the answer is %q, %v", answer, err)
	}
}

// TestWait: no end is missed, however short the container runs.
func TestWait(t *testing.T) {
	l := newContainers(t)
	id := l.create("exit 4", nil)
	if code := l.wait(id, containertypes.WaitConditionNotRunning)(); code != 0 {
		t.Errorf("of one that never ran: %d", code)
	}
	next := l.wait(id, containertypes.WaitConditionNextExit)
	l.start(id)
	if code := next(); code != 4 {
		t.Errorf("next-exit: %d", code)
	}
	if code := l.wait(id, containertypes.WaitConditionNotRunning)(); code != 4 {
		t.Errorf("not-running: %d", code)
	}
	removed := l.wait(id, containertypes.WaitConditionRemoved)
	_, err := l.ContainerRemove(t.Context(), id, client.ContainerRemoveOptions{})
	must(t, err)
	if code := removed(); code != 4 {
		t.Errorf("removed: %d", code)
	}
	if code := l.wait(id, containertypes.WaitConditionNotRunning)(); code != 4 {
		t.Errorf("of one that is gone: %d", code)
	}
	// When the server ends first, there is no answer that could be taken for one.
	id = l.create("sleep 60", nil)
	l.start(id)
	w := l.ContainerWait(t.Context(), id, client.ContainerWaitOptions{Condition: containertypes.WaitConditionNotRunning})
	go l.server.Close()
	select {
	case res := <-w.Result:
		t.Errorf("the server ended, and said %+v", res)
	case <-w.Error:
	}
	if _, status := l.get(http.MethodPost, "/containers/nosuch/wait"); status != http.StatusNotFound {
		t.Errorf("of none: %d", status)
	}
}

// TestContainerLife starts, lists, inspects, stops, renames and removes one.
func TestContainerLife(t *testing.T) {
	l := newContainers(t)
	ctx := t.Context()
	id := l.create("echo out; echo err >&2; trap 'exit 5' TERM; while :; do sleep 0.05; done", func(o *client.ContainerCreateOptions) {
		o.Name = "web"
		o.Config.Labels = map[string]string{"of": "test"}
	})
	l.start("web")
	if _, status := l.get(http.MethodPost, "/containers/web/start"); status != http.StatusNotModified {
		t.Errorf("a second start: %d", status)
	}
	if _, status := l.get(http.MethodDelete, "/containers/web"); status != http.StatusConflict {
		t.Errorf("removing what runs: %d", status)
	}
	list, err := l.ContainerList(ctx, client.ContainerListOptions{Filters: client.Filters{}.Add("label", "of=test")})
	must(t, err)
	if len(list.Items) != 1 || list.Items[0].Names[0] != "/web" || list.Items[0].State != "running" || !strings.HasPrefix(list.Items[0].Status, "Up ") {
		t.Errorf("the list is %+v", list.Items)
	}
	c, err := l.ContainerInspect(ctx, "web", client.ContainerInspectOptions{})
	must(t, err)
	if c.Container.ID != id || !c.Container.State.Running || c.Container.State.Pid == 0 || c.Container.HostConfig.NetworkMode != "none" {
		t.Errorf("it is %+v", c.Container)
	}
	logs, err := l.ContainerLogs(ctx, id[:12], client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Follow: true})
	must(t, err)
	top, err := l.ContainerTop(ctx, id, client.ContainerTopOptions{})
	if _, perr := exec.LookPath("ps"); perr == nil && (err != nil || len(top.Processes) == 0 || !slices.Contains(top.Titles, "PID")) {
		t.Errorf("top: %+v, %v", top, err)
	}
	if top, err := l.ContainerTop(ctx, id, client.ContainerTopOptions{Arguments: []string{"-eo", "args,pid"}}); err == nil {
		t.Errorf("what processes call themselves tells their numbers: %+v", top)
	}
	_, err = l.ContainerRename(ctx, id, client.ContainerRenameOptions{NewName: "other"})
	must(t, err)
	_, err = l.ContainerStop(ctx, "other", client.ContainerStopOptions{})
	must(t, err)
	if out, errs := output(t, logs); out != "out\n" || errs != "err\n" { // following ended with it
		t.Errorf("the logs are %q and %q", out, errs)
	}
	c, err = l.ContainerInspect(ctx, "other", client.ContainerInspectOptions{})
	must(t, err)
	if s := c.Container.State; s.Running || s.ExitCode != 5 || s.Status != "exited" {
		t.Errorf("it is %+v", s)
	}
	if _, status := l.get(http.MethodPost, "/containers/other/stop"); status != http.StatusNotModified {
		t.Errorf("a second stop: %d", status)
	}
	if _, status := l.get(http.MethodPost, "/containers/other/kill"); status != http.StatusConflict {
		t.Errorf("killing what does not run: %d", status)
	}
	diff, err := l.ContainerDiff(ctx, id, client.ContainerDiffOptions{})
	must(t, err)
	if len(diff.Changes) != 0 {
		t.Errorf("it changed %+v", diff.Changes)
	}
	_, err = l.ContainerRemove(ctx, id, client.ContainerRemoveOptions{})
	must(t, err)
	var actions []string
	doc := l.events(id)
	for _, e := range doc {
		actions = append(actions, string(e.Action))
		if name := e.Actor.Attributes["name"]; e.Action == events.ActionDie && name != "other" {
			t.Errorf("%s was told of %s", e.Action, name)
		}
	}
	if got := strings.Join(actions, " "); strings.Replace(got, " top", "", 1) != "create start rename kill die stop destroy" { // there may be no ps
		t.Errorf("the events are %s", got)
	}
}

// now is the time as requests have it.
func (l *lab) now() string {
	now := time.Now()
	return fmt.Sprintf("%d.%09d", now.Unix(), now.Nanosecond())
}

// events are those of a container so far.
func (l *lab) events(id string) (all []events.Message) {
	res := l.Events(l.t.Context(), client.EventsListOptions{Since: "1", Until: l.now(), Filters: client.Filters{}.Add("container", id)})
	for {
		select {
		case m := <-res.Messages:
			all = append(all, m)
		case err := <-res.Err:
			if err != nil && !errors.Is(err, io.EOF) {
				l.t.Error(err)
			}
			return all
		}
	}
}

// TestExecs runs processes in a container.
func TestExecs(t *testing.T) {
	l := newContainers(t)
	ctx := t.Context()
	id := l.create("while [ ! -e /end ]; do sleep 0.05; done", nil)
	if _, err := l.ExecCreate(ctx, id, client.ExecCreateOptions{Cmd: []string{"true"}}); err == nil {
		t.Error("a process in what does not run was created")
	}
	l.start(id)
	run := func(stdin string, o client.ExecCreateOptions) (string, string, int) {
		t.Helper()
		o.AttachStdout, o.AttachStderr = true, true
		e, err := l.ExecCreate(ctx, id, o)
		must(t, err)
		a, err := l.ExecAttach(ctx, e.ID, client.ExecAttachOptions{TTY: o.TTY})
		must(t, err)
		defer a.Close()
		if stdin != "" {
			_, err = io.WriteString(a.Conn, stdin)
			must(t, err)
		}
		must(t, a.CloseWrite())
		var out, errs string
		if o.TTY {
			data, err := io.ReadAll(a.Reader)
			must(t, err)
			out = string(data)
		} else {
			out, errs = output(t, a.Reader)
		}
		x, err := l.ExecInspect(ctx, e.ID, client.ExecInspectOptions{})
		must(t, err)
		if x.Running || x.ContainerID != id {
			t.Errorf("it is %+v", x)
		}
		return out, errs, x.ExitCode
	}
	if out, errs, code := run("", client.ExecCreateOptions{Cmd: []string{"sh", "-c", "echo $A $PWD; echo bad >&2; exit 6"}, Env: []string{"A=b"}, WorkingDir: "/etc"}); out != "b /etc\n" || errs != "bad\n" || code != 6 {
		t.Errorf("got %q, %q, %d", out, errs, code)
	}
	if out, _, code := run("typed", client.ExecCreateOptions{Cmd: []string{"cat"}, AttachStdin: true}); out != "typed" || code != 0 {
		t.Errorf("cat: %q, %d", out, code)
	}
	if out, _, code := run("", client.ExecCreateOptions{Cmd: []string{"tty"}, TTY: true}); !strings.HasPrefix(out, "/dev/") || code != 0 {
		t.Errorf("tty: %q, %d", out, code)
	}
	if out, _, code := run("", client.ExecCreateOptions{Cmd: []string{"stty", "size"}, TTY: true, ConsoleSize: client.ConsoleSize{Height: 21, Width: 61}}); strings.TrimSpace(out) != "21 61" || code != 0 {
		t.Errorf("the size of a terminal: %q, %d", out, code)
	}
	e, err := l.ExecCreate(ctx, id, client.ExecCreateOptions{Cmd: []string{"tty"}, TTY: true, AttachStdout: true})
	must(t, err)
	a, err := l.ExecAttach(ctx, e.ID, client.ExecAttachOptions{}) // as some clients do, which want frames then
	must(t, err)
	if out, _ := output(t, a.Reader); !strings.HasPrefix(out, "/dev/") {
		t.Errorf("a terminal that the start does not tell of: %q", out)
	}
	a.Close()
	for user, want := range map[string]string{"nosuch": "unable to find user nosuch: no matching entries in passwd file", "0:nosuch": "unable to find group nosuch: no matching entries in group file"} {
		_, err := l.ExecCreate(ctx, id, client.ExecCreateOptions{Cmd: []string{"true"}, User: user})
		if !errdefs.IsInvalidArgument(err) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("a process of %s: %v", user, err)
		}
	}
	if out, _, code := run("", client.ExecCreateOptions{Cmd: []string{"id", "-u"}, User: "7"}); out != "7\n" || code != 0 {
		t.Errorf("of a number: %q, %d", out, code)
	}
	if _, errs, code := run("", client.ExecCreateOptions{Cmd: []string{"nosuch"}}); !strings.Contains(errs, `exec: "nosuch": executable file not found in $PATH`) || code != 127 {
		t.Errorf("nosuch: %q, %d", errs, code)
	}
	// One that ends the container has an exit code still.
	if _, _, code := run("", client.ExecCreateOptions{Cmd: []string{"sh", "-c", "touch /end; sleep 100"}}); code != 137 {
		t.Errorf("one that ended with the container: %d", code)
	}
	for _, path := range []string{"/exec/nosuch/json", "/exec/" + strings.Repeat("a", 64) + "/json"} {
		if _, status := l.get(http.MethodGet, path); status != http.StatusNotFound {
			t.Errorf("%s: %d", path, status)
		}
	}
}

// TestTerminal: one with a terminal has one stream, as it is.
func TestTerminal(t *testing.T) {
	l := newContainers(t)
	id := l.create("stty size; read x; until stty size | grep \"33 77\"; do :; done; echo got $x", func(o *client.ContainerCreateOptions) {
		o.Config.Tty, o.Config.OpenStdin, o.HostConfig.ConsoleSize = true, true, [2]uint{22, 62}
	})
	a, err := l.ContainerAttach(t.Context(), id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true})
	must(t, err)
	defer a.Close()
	l.start(id)
	first, err := bufio.NewReaderSize(io.LimitReader(a.Reader, 7), 16).ReadString('\n')
	if err != nil || first != "22 62\r\n" {
		t.Errorf("it begins with %q, %v", first, err)
	}
	_, err = l.ContainerResize(t.Context(), id, client.ContainerResizeOptions{Height: 33, Width: 77})
	must(t, err)
	_, err = io.WriteString(a.Conn, "line\n")
	must(t, err)
	data, err := io.ReadAll(a.Reader)
	must(t, err)
	if !strings.Contains(string(data), "got line\r\n") || bytes.IndexByte(data, 0) >= 0 {
		t.Errorf("it printed %q", data)
	}
	if _, status := l.get(http.MethodPost, "/containers/"+id+"/resize?h=x&w=1"); status != http.StatusBadRequest {
		t.Errorf("a bad size: %d", status)
	}
}

// TestUse restarts a container, and tells what it uses, and what is left when it is pruned.
func TestUse(t *testing.T) {
	l := newContainers(t)
	ctx := t.Context()
	id := l.create("while [ ! -e /end ]; do sleep 0.05; done", func(o *client.ContainerCreateOptions) { o.HostConfig.Binds = []string{"data:/v"} })
	l.start(id)
	first, err := l.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	must(t, err)
	none := 0
	_, err = l.ContainerRestart(ctx, id, client.ContainerRestartOptions{Timeout: &none})
	must(t, err)
	second, err := l.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
	must(t, err)
	if s := second.Container.State; !s.Running || s.StartedAt == first.Container.State.StartedAt {
		t.Errorf("restarted, it is %+v", s)
	}
	u := l.stats(id)
	for end := time.Now().Add(time.Minute); u.MemoryStats.Usage == 0 && time.Now().Before(end); { // a process that is being executed has none for a moment
		u = l.stats(id)
	}
	if u.ID != id || u.PidsStats.Current == 0 || u.MemoryStats.Usage == 0 || u.CPUStats.SystemUsage == 0 {
		t.Errorf("it uses %+v", u)
	}
	du, err := l.DiskUsage(ctx, client.DiskUsageOptions{Containers: true, Volumes: true, Verbose: true})
	must(t, err)
	if du.Containers.TotalCount != 1 || du.Containers.ActiveCount != 1 || du.Volumes.TotalCount != 1 || du.Volumes.ActiveCount != 1 || du.Volumes.Items[0].Name != "data" {
		t.Errorf("the disk has %+v, %+v", du.Containers, du.Volumes)
	}
	pruned, err := l.ContainerPrune(ctx, client.ContainerPruneOptions{})
	must(t, err)
	if len(pruned.Report.ContainersDeleted) != 0 {
		t.Errorf("what runs was pruned: %q", pruned.Report.ContainersDeleted)
	}
	_, err = l.ContainerKill(ctx, id, client.ContainerKillOptions{Signal: "KILL"})
	must(t, err)
	l.wait(id, containertypes.WaitConditionNotRunning)()
	if u := l.stats(id); u.ID != id || u.PidsStats.Current != 0 || u.MemoryStats.Usage != 0 {
		t.Errorf("one that does not run uses %+v", u)
	}
	pruned, err = l.ContainerPrune(ctx, client.ContainerPruneOptions{})
	must(t, err)
	if !slices.Equal(pruned.Report.ContainersDeleted, []string{id}) {
		t.Errorf("pruned were %q", pruned.Report.ContainersDeleted)
	}
}

// TestNetworks: there are three, which stay.
func TestNetworks(t *testing.T) {
	l := newLab(t)
	list, err := l.NetworkList(t.Context(), client.NetworkListOptions{})
	must(t, err)
	var names []string
	for _, n := range list.Items {
		names = append(names, n.Name+" "+n.Driver)
		got, err := l.NetworkInspect(t.Context(), n.ID[:12], client.NetworkInspectOptions{})
		must(t, err)
		if got.Network.Name != n.Name {
			t.Errorf("%s is %+v", n.ID, got.Network)
		}
	}
	if !slices.Equal(names, []string{"bridge bridge", "host host", "none null"}) {
		t.Errorf("there are %q", names)
	}
	for p, want := range map[string]int{"/networks/bridge": http.StatusForbidden, "/networks/nosuch": http.StatusNotFound} {
		if _, status := l.get(http.MethodDelete, p); status != want {
			t.Errorf("removing %s: %d", p, status)
		}
	}
}

// TestRefusedContainers: what is not served says so, and leaves nothing.
func TestRefusedContainers(t *testing.T) {
	l := newContainers(t)
	for want, change := range map[string]func(*client.ContainerCreateOptions){
		"No such image":           func(o *client.ContainerCreateOptions) { o.Config.Image = "nosuch" },
		"Devices":                 func(o *client.ContainerCreateOptions) { o.HostConfig.Devices = []containertypes.DeviceMapping{{}} },
		"PidMode host":            func(o *client.ContainerCreateOptions) { o.HostConfig.PidMode = "host" },
		"network other not found": func(o *client.ContainerCreateOptions) { o.HostConfig.NetworkMode = "other" },
		"no log driver named":     func(o *client.ContainerCreateOptions) { o.HostConfig.LogConfig.Type = "syslog" },
		"invalid CapAdd":          func(o *client.ContainerCreateOptions) { o.HostConfig.CapAdd = []string{"MOON"} },
		"must be absolute":        func(o *client.ContainerCreateOptions) { o.HostConfig.Binds = []string{"fresh:/v", "xx:y"} },
		"invalid characters":      func(o *client.ContainerCreateOptions) { o.HostConfig.Binds = []string{"../x:/y"} },
		"invalid reference":       func(o *client.ContainerCreateOptions) { o.Config.Image = "busybox:sha256:" + strings.Repeat("a", 64) },
		"No such container: no":   func(o *client.ContainerCreateOptions) { o.HostConfig.VolumesFrom = []string{"no:ro"} },
		"invalid mode: shared":    func(o *client.ContainerCreateOptions) { o.HostConfig.VolumesFrom = []string{"no:shared"} },
	} {
		o := client.ContainerCreateOptions{Config: &containertypes.Config{Image: "busybox", Cmd: []string{"true"}}, HostConfig: &containertypes.HostConfig{}}
		change(&o)
		if _, err := l.ContainerCreate(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	there := "/containers/" + l.create("true", nil)
	for p, want := range map[string]int{
		there + "/update": http.StatusNotImplemented, there + "/pause": http.StatusNotImplemented, "/containers/nosuch/update": http.StatusNotFound,
		there + "/start?checkpoint=../x": http.StatusBadRequest, there + "/start?checkpoint=x": http.StatusBadRequest,
	} {
		if _, status := l.get(http.MethodPost, p); status != want {
			t.Errorf("%s: %d", p, status)
		}
	}
	c, err := l.ContainerCreate(t.Context(), client.ContainerCreateOptions{Config: &containertypes.Config{Image: "busybox", Cmd: []string{"nosuch"}}, HostConfig: &containertypes.HostConfig{PublishAllPorts: true}})
	must(t, err)
	if len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "not published") {
		t.Errorf("the warnings are %q", c.Warnings)
	}
	if _, err := l.ContainerStart(t.Context(), c.ID, client.ContainerStartOptions{}); err == nil || !strings.Contains(err.Error(), `exec: "nosuch": executable file not found in $PATH`) {
		t.Errorf("a program that is not there: %v", err)
	}
	volumes, err := l.VolumeList(t.Context(), client.VolumeListOptions{})
	must(t, err)
	if len(volumes.Items) > 0 {
		t.Errorf("volumes are left: %+v", volumes.Items)
	}
}
