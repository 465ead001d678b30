package sandbox

import (
	"strings"

	"github.com/opencontainers/runc/libcontainer/apparmor"
)

// testAppArmor: a container has Docker's profile where the kernel has AppArmor and there is a program that loads it.
func testAppArmor(l *lab) {
	spec := l.spec("true")
	spec.AppArmor = "slipway-no-such-profile"
	if out, err := l.try(spec); err == nil {
		l.t.Errorf("a profile that is not there: got %q", out)
	} else if !apparmor.IsEnabled() && !strings.Contains(err.Error(), "AppArmor profile slipway-no-such-profile: this kernel has no AppArmor") {
		l.t.Errorf("a profile without AppArmor: got %v", err)
	}
	if defaultAppArmor() == "" {
		l.t.Skip("this machine has no AppArmor, or no apparmor_parser")
	}
	const current = "cat /proc/self/attr/current; (: > /proc/sys/kernel/domainname) 2>/dev/null && echo writes; true"
	if got := l.run(l.spec(current)); got != appArmorProfile+" (enforce)" {
		l.t.Errorf("a container is %q", got)
	}
	for _, change := range []func(*Spec){func(s *Spec) { s.AppArmor = AppArmorUnconfined }, func(s *Spec) { s.Insecure = true }} {
		spec := l.spec(current)
		change(spec)
		if got, _, _ := strings.Cut(l.run(spec), "\n"); got != AppArmorUnconfined {
			l.t.Errorf("one without a profile is %q", got)
		}
	}
}
