package isolation

import (
	"errors"
	"strings"
	"testing"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

const (
	sysAdmin = 1 << unix.CAP_SYS_ADMIN
	docker   = 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID | 1<<unix.CAP_SETFCAP | 1<<unix.CAP_CHOWN
)

// ordinary are the facts of a user who has what useradd gives.
func ordinary() Facts {
	return Facts{
		UID: 1000, GID: 1000, User: "ann", MaxUserNS: 1000, Program: "/usr/local/bin/slipway", NewUIDMap: "/usr/bin/newuidmap", NewGIDMap: "/usr/bin/newgidmap",
		SubUIDs: []user.SubID{{SubID: 100000, Count: 65536}, {SubID: 300000, Count: 10}}, SubGIDs: []user.SubID{{SubID: 200000, Count: 65536}},
	}
}

// inContainer are those of root in a container of Docker, with a filter that lets user namespaces be made.
func inContainer() Facts {
	all := []user.IDMap{{ID: 0, ParentID: 0, Count: 4294967295}}
	return Facts{Caps: docker, Container: "docker", OwnUIDs: all, OwnGIDs: all, MaxUserNS: 1000}
}

func TestChoose(t *testing.T) {
	for name, c := range map[string]struct {
		facts  Facts
		change func(*Facts)
		wanted Mode
		mode   Mode
		ids    IDs
		enter  maps
		why    string   // that is part of the reason
		says   []string // of the error, or of what would be better
	}{
		"root":                              {facts: Facts{Caps: sysAdmin}, mode: Root},
		"root in somebody's user namespace": {facts: Facts{Caps: sysAdmin, InUserNS: true, Container: "kubernetes"}, mode: Root},
		"a user": {facts: ordinary(), mode: UserNS, ids: Subordinate, enter: maps{
			uids: "0 1000 1 1 100000 65536 65537 300000 10", gids: "0 1000 1 1 200000 65536", uidProgram: "/usr/bin/newuidmap", gidProgram: "/usr/bin/newgidmap"},
			says: []string{"root: this user is not root: sudo slipway"}},
		"a user who wants root": {facts: ordinary(), wanted: Root, says: []string{"--isolation=root cannot be had here: root: this user is not root: sudo slipway"}},
		"no subordinate IDs": {facts: ordinary(), change: func(f *Facts) { f.SubUIDs = nil }, mode: UserNS, ids: One,
			enter: maps{uids: "0 1000 1", gids: "0 1000 1", setgroups: "deny"},
			says:  []string{"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 ann"}},
		"no newuidmap": {facts: ordinary(), change: func(f *Facts) { f.NewUIDMap = "" }, mode: UserNS, ids: One,
			enter: maps{uids: "0 1000 1", gids: "0 1000 1", setgroups: "deny"}, says: []string{"apt-get install uidmap"}},
		"no_new_privs": {facts: ordinary(), change: func(f *Facts) { f.NoNewPrivs, f.Container = true, "kubernetes" }, mode: UserNS, ids: One,
			enter: maps{uids: "0 1000 1", gids: "0 1000 1", setgroups: "deny"}, says: []string{"allowPrivilegeEscalation: true"}},
		"newuidmap failed": {facts: ordinary(), change: func(f *Facts) { f.Failed = &Entry{IDs: Subordinate, Err: errors.New("newuidmap: no")} }, mode: UserNS, ids: One,
			enter: maps{uids: "0 1000 1", gids: "0 1000 1", setgroups: "deny"}, says: []string{"newuidmap: no"}},
		"that failed too": {facts: ordinary(), change: func(f *Facts) { f.Failed = &Entry{IDs: One, Err: errors.New("refused")} }, says: []string{"one ID, owners are recorded): refused"}},
		"no user namespaces": {facts: ordinary(), change: func(f *Facts) { f.UserNS, f.MaxUserNS = unix.ENOSPC, 0 }, says: []string{
			"user.max_user_namespaces is 0", "sudo sysctl -w user.max_user_namespaces=28633"}},
		"Ubuntu": {facts: ordinary(), change: func(f *Facts) { f.Mounts, f.AppArmorSysctl = unix.EACCES, true }, says: []string{
			`profile slipway "/usr/local/bin/slipway" flags=(unconfined) {`, "sudo apparmor_parser -r /etc/apparmor.d/slipway"}},
		"an old Debian": {facts: ordinary(), change: func(f *Facts) { f.UserNS, f.OldSysctl = unix.EPERM, true }, says: []string{"kernel.unprivileged_userns_clone=1"}},
		"a container with a profile that forbids mounts": {facts: inContainer(), change: func(f *Facts) { f.Mounts = unix.EACCES }, mode: None, says: []string{"--security-opt apparmor=unconfined"}},
		"Docker's default": {facts: inContainer(), change: func(f *Facts) { f.UserNS = unix.EPERM }, mode: None, says: []string{
			"root: CAP_SYS_ADMIN is missing: docker run --cap-add SYS_ADMIN", "--security-opt seccomp=unconfined"}},
		"a read-only pod": {facts: inContainer(), change: func(f *Facts) { f.UserNS, f.Container, f.RootDir = unix.EPERM, "kubernetes", unix.EROFS }, says: []string{
			"hostUsers: false", "readOnlyRootFilesystem: false"}},
		"a pod": {facts: inContainer(), change: func(f *Facts) { f.UserNS, f.Container = unix.EPERM, "kubernetes" }, mode: None, says: []string{
			"hostUsers: false", "securityContext: {seccompProfile: {type: Unconfined}}"}},
		"Docker without seccomp": {facts: inContainer(), mode: UserNS, ids: Identity, enter: maps{uids: "0 0 1 1 1 4294967294", gids: "0 0 1 1 1 4294967294"}},
		"SETUID and SETGID alone": {facts: inContainer(), change: func(f *Facts) {
			f.Caps = 1<<unix.CAP_SETUID | 1<<unix.CAP_SETGID
			f.OwnUIDs = []user.IDMap{{ID: 0, ParentID: 700000, Count: 65535}}
		}, mode: UserNS, ids: Identity, enter: maps{uids: "0 1 65534", gids: "0 0 1 1 1 4294967294"}},
		"root that has nothing": {facts: inContainer(), change: func(f *Facts) { f.Caps = 0 }, mode: None, says: []string{
			"CAP_SETUID or CAP_SETGID is missing: docker run --cap-add SETUID --cap-add SETGID", "docker run --user 1000"}},
		"a user in a container that is not its own": {facts: ordinary(), change: func(f *Facts) { f.UserNS, f.Container, f.RootDir = unix.EPERM, "docker", unix.EACCES }, says: []string{
			"none: user 1000 cannot write to / (permission denied): docker run --user 0", "seccomp=unconfined"}},
		"no volume": {facts: inContainer(), change: func(f *Facts) { f.OverlayStore, f.Room = "/var/lib/slipway", 1<<32 },
			mode: UserNS, ids: Identity, enter: maps{uids: "0 0 1 1 1 4294967294", gids: "0 0 1 1 1 4294967294"}, why: "up to 4GiB", says: []string{
				"userns (the container's IDs): the store /var/lib/slipway is on an overlay", "docker run -v slipway:/var/lib/slipway"}},
		"SYS_ADMIN without a volume": {facts: inContainer(), change: func(f *Facts) { f.Caps, f.OverlayStore, f.Room = sysAdmin, "/store", 1<<32 },
			mode: Root, why: "up to 4GiB", says: []string{"root: the store /store is on an overlay", "docker run -v slipway:/store"}},
		"no volume and little memory": {facts: inContainer(), change: func(f *Facts) { f.OverlayStore, f.Room = "/var/lib/slipway", 1<<29 }, mode: None, says: []string{
			"root: CAP_SYS_ADMIN is missing", "userns (the container's IDs): the store /var/lib/slipway is on an overlay", "less memory for them than 900MiB (512MiB)", "docker run -v slipway:/var/lib/slipway"}},
		"little memory, and nothing else": {facts: inContainer(), change: func(f *Facts) { f.OverlayStore, f.Room, f.RootDir = "/store", 1<<29, unix.EACCES },
			mode: UserNS, ids: Identity, enter: maps{uids: "0 0 1 1 1 4294967294", gids: "0 0 1 1 1 4294967294"}, why: "up to 512MiB"},
		"little memory, and asked for": {facts: inContainer(), wanted: UserNS, change: func(f *Facts) { f.OverlayStore, f.Room = "/store", 1<<29 },
			mode: UserNS, ids: Identity, enter: maps{uids: "0 0 1 1 1 4294967294", gids: "0 0 1 1 1 4294967294"}, why: "up to 512MiB"},
		"little memory, and a store that root made": {facts: inContainer(), change: func(f *Facts) {
			f.Caps, f.OverlayStore, f.Room, f.Made = sysAdmin, "/store", 1<<29, Root
		}, mode: Root, why: "up to 512MiB"},
		"memory, and a store that was made in place": {facts: inContainer(), change: func(f *Facts) {
			f.Caps, f.OverlayStore, f.Room, f.Made = sysAdmin, "/store", 1<<32, UserNS
			f.UserNS = unix.EPERM
		}, mode: None, says: []string{"root: the store /store was made without these rights", "slipway --root /store system reset"}},
		"memory without attributes": {facts: inContainer(), wanted: UserNS, change: func(f *Facts) { f.OverlayStore = "/store" }, says: []string{"before Linux 6.6", "docker run -v slipway:/store"}},
		"SYS_ADMIN with a profile that forbids mounts": {facts: inContainer(), change: func(f *Facts) {
			f.Caps |= sysAdmin
			f.MountNS, f.Mounts = unix.EACCES, unix.EACCES
		}, mode: None, says: []string{"AppArmor"}},
	} {
		t.Run(name, func(t *testing.T) {
			f, wanted := c.facts, c.wanted
			if c.change != nil {
				c.change(&f)
			}
			if wanted == "" {
				wanted = Auto
			}
			got := Choose(&f, wanted)
			if got.Mode != c.mode || got.IDs != c.ids || got.enter != c.enter {
				t.Errorf("got %s with %+v, want %s %s with %+v", got, got.enter, c.mode, c.ids, c.enter)
			}
			if (got.Mode == "") != (got.Err != nil) || (got.Mode == "") == (got.Why != "") {
				t.Errorf("mode %q has error %v and reason %q", got.Mode, got.Err, got.Why)
			}
			if !strings.Contains(got.Why, c.why) || got.InMemory != (c.why != "") {
				t.Errorf("the reason is %q, in memory %t; want %q", got.Why, got.InMemory, c.why)
			}
			said := ""
			for _, l := range got.Better {
				said += l.String() + "\n"
			}
			if got.Err != nil {
				said = got.Err.Error()
			}
			for _, want := range c.says {
				if !strings.Contains(said, want) {
					t.Errorf("%q is missing in:\n%s", want, said)
				}
			}
		})
	}
}

func TestAppArmorCommandQuotes(t *testing.T) {
	got := AppArmorCommand(`/home/o'neill/"x"*`)
	if want := `'profile slipway "/home/o'\''neill/\"x\"\*" flags=(unconfined) {'`; !strings.Contains(got, want) {
		t.Errorf("%s is missing in %s", want, got)
	}
}

func TestParseMode(t *testing.T) {
	for text, want := range map[string]Mode{"": Auto, "default": Auto, "none": None} {
		if got, err := ParseMode(text); got != want || err != nil {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	if _, err := ParseMode("hyperv"); err == nil || !strings.Contains(err.Error(), `invalid isolation "hyperv"`) {
		t.Errorf("got %v", err)
	}
}
