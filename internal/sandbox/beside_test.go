package sandbox

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// besideScript tells all that a process can see of how it was started, section by section.
const besideScript = `cd /proc/1
for f in status limits mountinfo cgroup oom_score_adj personality timerslack_ns coredump_filter loginuid sessionid setgroups uid_map gid_map stat cmdline autogroup attr/current; do
echo "== $f"; tr '\0' '\n' < $f; echo; done 2>/dev/null
echo '== environ'; tr '\0' '\n' < environ
echo '== ns'; for n in ns/*; do echo "${n#ns/}: $(readlink $n)"; done
echo '== links'; for n in cwd root exe; do echo "$n: $(readlink $n)"; done
echo '== fd'; for n in fd/*; do echo "${n#fd/}: $(readlink $n) $(stat -L -c '%F %a %u:%g' $n)"; done
echo '== fdinfo'; for n in 0 1 2; do echo "$n: $(grep flags fdinfo/$n)"; done
echo '== ionice'; busybox ionice -p 1
echo '== umask'; umask
echo '== dev'; cd /dev; find . | busybox sort | while read n; do echo "$n: $(stat -c '%F %a %u:%g %t:%T' $n) $(readlink $n)"; done
echo '== modes'; for n in / /proc /sys /dev /etc /etc/hosts /etc/resolv.conf /tmp; do echo "$n: $(stat -c '%F %a %u:%g' $n)"; done
echo '== net'; ls /sys/class/net; cat /proc/net/dev | wc -l; hostname
echo '== ipc'; cat /proc/sysvipc/shm /proc/sys/kernel/shmmax /proc/sys/fs/mqueue/queues_max
echo '== sys'; find /proc/sys -type f -perm -200 2>/dev/null | while read n; do { true >> $n; } 2>/dev/null && echo "$n: writable"; done
true`

// beside runs a spec and returns what it tells, in fields: "status CapEff" has a value.
func beside(l *lab, spec *Spec) map[string]string {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
	defer cancel()
	var out, errs lockedBuffer
	streams := IO{Stdout: &out, Stderr: &errs}
	if !spec.Terminal {
		streams.Stdin = strings.NewReader("")
	} else {
		r, w := io.Pipe()
		defer w.Close()
		streams.Stdin = r
	}
	if err := l.runner.Run(ctx, spec, streams); err != nil {
		l.t.Fatalf("running: %v; output: %s%s", err, out.String(), errs.String())
	}
	text := strings.ReplaceAll(out.String(), "\r\n", "\n")
	for from, to := range map[string]string{l.state: "STATE", l.dir: "DIR", l.image: "IMAGE", spec.ID: "ID"} {
		text = strings.ReplaceAll(text, from, to)
	}
	fields := map[string]string{}
	for section := range strings.SplitSeq("\n"+text, "\n== ") {
		name, body, _ := strings.Cut(section, "\n")
		for i, line := range strings.Split(strings.TrimSpace(body), "\n") {
			key, value := fieldOf(name, i, line)
			for n := 2; fields[key] != ""; n++ { // mounted twice
				key += fmt.Sprintf(" (%d)", n)
			}
			fields[key] = value
		}
	}
	return fields
}

var autogroup, pipe = regexp.MustCompile(`-\d+`), regexp.MustCompile(`pipe:\[\d+\]`)

// fieldOf is one line of a section as a field.
func fieldOf(section string, i int, line string) (key, value string) {
	words := strings.Fields(line)
	switch section {
	case "mountinfo":
		// 36 35 98:0 /root /mount/point options shared:1 - type source options
		if len(words) < 10 {
			return section, line
		}
		dash := slices.Index(words, "-")
		return "mount " + words[4], strings.Join(append(slices.Concat(words[3:4], words[5:6], words[6:dash]), words[dash+1:]...), " ")
	case "limits":
		if len(line) > 26 {
			return "limit " + strings.TrimSpace(line[:26]), strings.Join(strings.Fields(line[26:]), " ")
		}
	case "stat":
		if _, rest, ok := strings.Cut(line, ") "); ok {
			f := strings.Fields(rest) // from the third field on
			return "stat", fmt.Sprintf("ppid %s pgrp %s session %s tty %s tpgid %s priority %s nice %s threads %s rt %s policy %s", f[1], f[2], f[3], f[4], f[5], f[15], f[16], f[17], f[37], f[38])
		}
	case "ns":
		name, value, _ := strings.Cut(line, ": ")
		of := "its own"
		if host, err := os.Readlink("/proc/self/ns/" + name); err == nil && host == value {
			of = "the host's"
		}
		return "ns " + name, of
	case "autogroup":
		line = autogroup.ReplaceAllString(line, "")
	case "fd":
		line = pipe.ReplaceAllString(line, "pipe")
	}
	switch section {
	case "status", "environ", "links", "fd", "fdinfo", "dev", "modes", "sys":
		if name, value, ok := strings.Cut(strings.Replace(line, "=", ":", 1), ":"); ok {
			return section + " " + name, strings.Join(strings.Fields(value), " ")
		}
	}
	return fmt.Sprint(section, " ", i), line
}

// counters change from run to run, whoever starts the process.
var counters = regexp.MustCompile(`^status (State|Vm|Rss|Hugetlb|SigQ|FDSize|.*ctxt_switches)`)

// besideDifference is what is meant to be otherwise than with runc.
type besideDifference struct {
	field, own, runc string // regular expressions
	why              string
	here             bool // on this machine
}

func besideDifferences() []besideDifference {
	v1 := !cgroupNamespaces()
	return []besideDifference{
		{`cgroup \d+`, `.*:/`, `.*:/ID`, "slipway's own view of cgroups of version 1, and no cgroup without limits; runc has no view of these", v1},
		{`cgroup \d+`, `.*:/.*/ID`, `.*:/ID`, "with limits a cgroup is made below slipway's own", v1 && memoryBelow()},
		{`ns cgroup`, `its own`, `the host's`, "the same", v1},
		{`mount /sys/fs/cgroup/.*`, `/( .*|.*/ID .*)`, `/(.*/)?\S+ .*`, "the same", v1 && memoryBelow()},
		{`mount /sys/fs/cgroup`, `/ ro,(.*)`, `/ rw,.*`, "runc leaves the directory of the hierarchies writable", v1},
		{`mount /(proc|sys)/.*`, `/nowhere/empty ro,nosuid,noexec,relatime tmpfs .*`, `/ ro,relatime tmpfs tmpfs ro.*`, "a masked directory is an empty one of the run's filesystem, not a tmpfs of its own", true},
		{`mount /(proc|sys)/.*`, `/nowhere/null ro,nosuid,noexec,relatime .*`, `/null rw,nosuid.*`, "a masked file is a null device that nobody can change, not that of /dev", true},
		{`status SigIgn`, `0{15}[04]`, `[0-9a-f]{16}`, "runc passes on signals that slipway ignores, as its C library may have it; SIGQUIT is the script's shell's", false},
		{`fdinfo \d`, `flags: 02`, `flags: 0100002`, "a terminal is opened without O_LARGEFILE, which means nothing here", runtime.GOARCH == "amd64"},
	}
}

// memoryBelow reports whether slipway's own cgroup is not the top one of each hierarchy of version 1.
func memoryBelow() bool {
	return slices.ContainsFunc(ownCgroups(), func(c ownCgroup) bool { return c.path != filepath.Join("/sys/fs/cgroup", c.name) })
}

// TestBesideRunc: a process is started as by runc, but for what is named here.
func TestBesideRunc(t *testing.T) {
	if testing.Short() {
		t.Skip("long: each process twice")
	}
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		t.Skip("no runc on this machine")
	}
	var labs [2]*lab
	for i, name := range []string{"", "runc"} {
		labs[i] = newLab(t, func(t testing.TB, state string) Runner {
			r, err := New(Options{StateDir: state, RuntimeBinary: name})
			if err != nil {
				t.Fatal(err)
			}
			return r
		})
		labs[i].linked = name == ""
	}
	differences := besideDifferences()
	used := make([]bool, len(differences))
	ran, variants := 0, map[string]func(*Spec){
		"Root":     func(*Spec) {},
		"User":     func(s *Spec) { s.User, s.Env = "user", []string{"A=b", "HOME=/x"} },
		"Terminal": func(s *Spec) { s.Terminal = true },
		"Limits": func(s *Spec) {
			s.Resources = Resources{Memory: 64 << 20, CPUShares: 512, Pids: 100}
			s.Ulimits = []Ulimit{{"nofile", 100, 200}, {"core", 0, 0}}
		},
		"Insecure": func(s *Spec) { s.Insecure = true },
		"KeepCaps": func(s *Spec) { s.Insecure, s.KeepCaps, s.User = true, true, "user" },
		"CapDrop":  func(s *Spec) { s.CapDrop, s.CapAdd = []string{"CAP_CHOWN"}, []string{"CAP_SYS_PTRACE"} },
		"ReadOnly": func(s *Spec) { s.Root.Upper, s.Root.Work = "", "" },
		"Network":  func(s *Spec) { s.Network, s.Cwd = NetworkNone, "/new/dir" },
	}
	for name, change := range variants {
		t.Run(name, func(t *testing.T) {
			ran++
			var got [2]map[string]string
			keys := map[string]bool{}
			for i, l := range labs {
				spec := l.spec(besideScript)
				change(spec)
				got[i] = beside(l, spec)
				for key := range got[i] {
					keys[key] = true
				}
			}
			if len(keys) < 200 {
				t.Errorf("a process tells %d fields only: %q", len(keys), got)
			}
			for _, key := range slices.Sorted(maps.Keys(keys)) {
				own, other := got[0][key], got[1][key]
				if own == other || counters.MatchString(key) {
					continue
				}
				is := func(pattern, text string) bool { return regexp.MustCompile("^(" + pattern + ")$").MatchString(text) }
				i := slices.IndexFunc(differences, func(d besideDifference) bool {
					return is(d.field, key) && is(d.own, own) && is(d.runc, other)
				})
				if i < 0 {
					t.Errorf("%s: %q, with runc %q", key, own, other)
				} else {
					used[i] = true
				}
			}
		})
	}
	for i, d := range differences {
		if ran == len(variants) && d.here && !used[i] {
			t.Errorf("%s is not otherwise than with runc: %s", d.field, d.why)
		}
	}
}
