package view

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/sandbox"
	"github.com/slipway-build/slipway/internal/store"
)

func flock(t testing.TB, f *os.File) {
	t.Helper()
	must(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
}

// containers are four in a store: one that never ran, one that ended with 3, one whose process was killed, and one that runs.
func (l *lab) containers() (made, ended, killed, runs store.Container) {
	l.t.Helper()
	base := l.layer("base")
	box := l.name(l.image("box", "amd64", time.Hour, base), "busybox")
	app := l.name(l.image("app", "amd64", time.Hour, base, l.layer("app")), "app:v1")
	ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
	made = l.container("made", box, 4*time.Hour, container.Config{
		Args: []string{"sh", "-c", `echo "a b"`}, Network: sandbox.NetworkBridge, Labels: map[string]string{"env": "test", "tier": "web"},
	}, container.State{})
	ended = l.container("ended", app, 3*time.Hour, container.Config{
		Args: []string{"true"}, Network: sandbox.NetworkNone, Labels: map[string]string{"env": "live"},
		Mounts: []sandbox.Mount{{Bind: "/host", Dest: "/data"}, {Dest: "/tmp", Tmpfs: &sandbox.Tmpfs{}}},
	}, container.State{Started: ago(2 * time.Hour), Finished: ago(time.Hour), ExitCode: 3})
	killed = l.container("killed", box, 2*time.Hour, container.Config{Args: []string{"true"}, Network: sandbox.NetworkHost}, container.State{Started: ago(time.Hour)})
	runs = l.container("runs", app, time.Hour, container.Config{Args: []string{"top"}}, container.State{PID: 1, Started: ago(30 * time.Minute)})
	l.run(runs)
	return made, ended, killed, runs
}

// chosen lists the containers that values of --filter let through.
func (l *lab) chosen(all bool, limit int, values ...string) string {
	l.t.Helper()
	args, err := ParseArgs(values, "id", "name", "label", "label!", "status", "exited", "before", "since", "until", "ancestor", "network", "volume")
	must(l.t, err)
	f, err := ParseContainerFilter(args)
	must(l.t, err)
	f.All, f.Limit = all, limit
	rows, err := Containers(l.t.Context(), l.m, f)
	must(l.t, err)
	var names []string
	for _, c := range rows {
		names = append(names, c.Name)
	}
	return strings.Join(names, " ")
}

func TestContainerFilter(t *testing.T) {
	l := newLab(t)
	made, _, _, _ := l.containers()
	want(t, "what runs", l.chosen(false, 0), "runs")
	want(t, "a negative number", l.chosen(false, -1), "runs")
	want(t, "the newest two", l.chosen(false, 2), "runs killed")
	want(t, "the newest of a name", l.chosen(false, 1, "name=made"), "made")
	want(t, "a state", l.chosen(false, 0, "status=exited"), "killed ended")
	for filter, names := range map[string]string{
		"":                              "runs killed ended made",
		"id=" + made.ID[:12]:            "made",
		"id=" + made.ID:                 "made",
		"name=ed$":                      "killed ended",
		"name=^/made$ name=runs":        "runs made",
		"name=[":                        "",
		"label=env":                     "ended made",
		"label=env=test label=tier":     "made",
		"label=env=test label=none":     "",
		"label!=env=test label!=tier":   "runs killed ended",
		"label!=env label!=none":        "runs killed ended made",
		"status=created status=running": "runs made",
		"exited=3":                      "ended",
		"exited=137 exited=0":           "killed",
		"before=killed":                 "ended made",
		"since=ended":                   "runs killed",
		"until=150m":                    "ended made",
		"until=0001-01-01":              "",
		"ancestor=app:v1":               "runs ended",
		"ancestor=busybox":              "runs killed ended made",
		"ancestor=nosuch":               "",
		"network=none network=host":     "killed ended",
		"volume=/data":                  "ended",
		"volume=/host":                  "ended",
		"volume=/tmp label=env=test":    "",
	} {
		want(t, filter, l.chosen(true, 0, strings.Fields(filter)...), names)
	}
	for _, f := range []ContainerFilter{{Before: []string{"nosuch"}}, {Since: []string{"made", "nosuch"}}} {
		if _, err := Containers(t.Context(), l.m, f); err == nil || err.Error() != "No such container: nosuch" {
			t.Errorf("%+v: %v", f, err)
		}
	}
	for _, bad := range []Args{{"status": {"asleep"}}, {"exited": {"x"}}, {"until": {"soon"}}, {"until": {"1h", "2h"}}} {
		if f, err := ParseContainerFilter(bad); err == nil {
			t.Errorf("filter %v is accepted as %+v", bad, f)
		}
	}
}

// A row has what Docker's API says of a container in a list.
func TestContainerRows(t *testing.T) {
	l := newLab(t)
	_, ended, _, _ := l.containers()
	must(t, os.WriteFile(l.s.ContainerDir(ended.ID)+"/fs/own", []byte("12"), 0o644))
	rows, err := Containers(t.Context(), l.m, ContainerFilter{All: true})
	must(t, err)
	var got []string
	for _, c := range rows {
		got = append(got, c.Name, c.State.Word(), strconv.Itoa(c.State.Code()), c.Status())
	}
	want(t, "states", got, "runs running 0 Up 30 minutes killed exited 137 Exited (137) Less than a second ago "+
		"ended exited 3 Exited (3) About an hour ago made created 0 Created")
	want(t, "command", rows[3].Command(), `sh -c 'echo "a b"'`)
	own, all, err := rows[2].Sizes(t.Context(), l.m)
	if err != nil || own != 2 || all != 2+4+3 { // "base", "app"
		t.Errorf("sizes are %d and %d, %v", own, all, err)
	}
	if p := rows[2].Platform(t.Context(), l.s); p == nil || p.Architecture != "amd64" || p.OS != "linux" {
		t.Errorf("platform is %+v", p)
	}
	if !rows[2].ImageIsNamed(t.Context(), l.s) {
		t.Error("the name of its image means another one")
	}
	l.name(l.image("newer", "amd64", 0), "app:v1")
	if rows[2].ImageIsNamed(t.Context(), l.s) {
		t.Error("the name of its image means another one now")
	}
}

// A container whose record is damaged is an error of a list, but can be pruned.
func TestDamagedContainer(t *testing.T) {
	l := newLab(t)
	img := l.name(l.image("box", "amd64", 0), "busybox")
	c := l.container("box", img, 0, container.Config{}, container.State{})
	must(t, l.s.RemoveContainer(t.Context(), c.ID))
	c.Config = []byte(`"no config"`)
	must(t, l.s.AddContainer(t.Context(), c))
	if rows, err := Containers(t.Context(), l.m, ContainerFilter{All: true}); err == nil {
		t.Errorf("rows are %+v", rows)
	}
	want(t, "one that the filter does not take", l.chosen(true, 0, "label=x"), "")
	gone, _, err := PruneContainers(t.Context(), l.m, ContainerFilter{})
	must(t, err)
	want(t, "gone", gone, c.ID)
}

func TestPruneContainers(t *testing.T) {
	l := newLab(t)
	made, ended, killed, _ := l.containers()
	must(t, os.WriteFile(l.s.ContainerDir(ended.ID)+"/fs/own", []byte("12"), 0o644))
	gone, freed, err := PruneContainers(t.Context(), l.m, ContainerFilter{Labels: []string{"env=live"}})
	must(t, err)
	if want(t, "gone", gone, ended.ID); freed != 2 {
		t.Errorf("%d bytes are free", freed)
	}
	must(t, os.WriteFile(l.s.ContainerDir(killed.ID)+"/fs/own", []byte("123"), 0o644))
	must(t, os.WriteFile(l.s.ContainerDir(made.ID)+"/fs/own", []byte("1234"), 0o644))
	gone, freed, err = PruneContainers(t.Context(), l.m, ContainerFilter{})
	must(t, err)
	if want(t, "gone", gone, killed.ID+" "+made.ID); freed != 7 {
		t.Errorf("%d bytes are free", freed)
	}
	want(t, "left", l.chosen(true, 0), "runs")
	if _, _, err := PruneContainers(t.Context(), l.m, ContainerFilter{Since: []string{"nosuch"}}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after an unknown container: %v", err)
	}
}
