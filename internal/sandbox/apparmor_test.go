package sandbox

import (
	"strings"

	"github.com/opencontainers/runc/libcontainer/apparmor"
)

// testAppArmor: a container has the profile that it is to have, Docker's among them.
func testAppArmor(l *lab) {
	const current = "cat /proc/self/attr/current; true"
	spec := l.spec(current)
	spec.AppArmor = "slipway-no-such-profile"
	if out, err := l.try(spec); err == nil {
		l.t.Errorf("a profile that is not there: got %q", out)
	} else if !apparmor.IsEnabled() && !strings.Contains(err.Error(), "AppArmor profile slipway-no-such-profile: this kernel has no AppArmor") {
		l.t.Errorf("a profile without AppArmor: got %v", err)
	}
	if !apparmor.IsEnabled() {
		l.t.Skip("this kernel has no AppArmor")
	}
	spec = l.spec(current)
	spec.Insecure = true
	if got := l.run(spec); got != AppArmorUnconfined {
		l.t.Errorf("an insecure container is %q", got)
	}
	for profile, want := range map[string]string{"": appArmorProfile + " (enforce)", AppArmorUnconfined: "unconfined", AppArmorDefault: appArmorProfile + " (enforce)"} {
		spec := l.spec(current)
		spec.AppArmor = profile
		if got := l.run(spec); got != want {
			l.t.Errorf("with the profile %q a container is %q, want %q", profile, got, want)
		}
	}
}
