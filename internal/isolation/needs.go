package isolation

import (
	"errors"
	"fmt"
	"slices"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// Need is something that is missing, and what gives it: one command, or a line of YAML.
type Need struct{ Text, Fix string }

func (n Need) String() string {
	if n.Fix == "" {
		return n.Text
	}
	return n.Text + ": " + n.Fix
}

// nothing is what says that a way is not for this user, whatever it is given.
var nothing = &Need{}

// fix chooses what to do by where this process is.
func (f *Facts) fix(host, docker, kubernetes string) string {
	switch f.Container {
	case "":
		return host
	case "kubernetes":
		return kubernetes
	}
	return docker
}

// failed is what entering said of a way, or of a better one.
func (f *Facts) failed(ids IDs) *Need {
	order := []IDs{Identity, Subordinate, One}
	if f.Failed == nil || slices.Index(order, f.Failed.IDs) < slices.Index(order, ids) {
		return nil
	}
	if f.Failed.IDs != ids {
		return nothing
	}
	return &Need{Text: f.Failed.Err.Error()}
}

func needsForRoot(f *Facts) *Need {
	switch {
	case f.UID != 0:
		return &Need{"this user is not root", f.fix("sudo slipway ...", "docker run --user 0", "securityContext: {runAsUser: 0}")}
	case !f.cap(unix.CAP_SYS_ADMIN):
		return &Need{"CAP_SYS_ADMIN is missing", f.fix("start it with all capabilities", "docker run --cap-add SYS_ADMIN --security-opt apparmor=unconfined",
			"hostUsers: false with securityContext: {capabilities: {add: [SYS_ADMIN]}}")}
	case errors.Is(f.MountNS, unix.EACCES):
		return f.confined()
	case f.MountNS != nil:
		return &Need{fmt.Sprintf("mounts are refused (%v)", f.MountNS), f.fix("start it without a seccomp filter", "docker run --security-opt seccomp=unconfined",
			"securityContext: {seccompProfile: {type: Unconfined}}")}
	}
	if f.Made == UserNS && !f.InUserNS {
		return &Need{fmt.Sprintf("the store %s was made without these rights, and its layers can have other attributes", f.OverlayStore),
			fmt.Sprintf("slipway --root %s system reset", f.OverlayStore)}
	}
	return f.needsVolume()
}

// needsVolume is the need of a store that is on the container's own root, where there is no memory for what steps change.
func (f *Facts) needsVolume() *Need {
	switch {
	case f.OverlayStore == "" || f.Room > 0 && f.Room >= f.least:
		return nil
	case f.Room == 0:
		return f.volume("on which the changes of steps cannot be kept, and before Linux 6.6 not in memory either")
	}
	return f.volume(fmt.Sprintf("on which the changes of steps cannot be kept, and there is less memory for them than %s (%s)", units.BytesSize(float64(f.least)), units.BytesSize(float64(f.Room))))
}

// volume is the need of a store that is better elsewhere.
func (f *Facts) volume(why string) *Need {
	return &Need{fmt.Sprintf("the store %s is on an overlay, %s", f.OverlayStore, why), f.fix("choose another place with --root",
		fmt.Sprintf("docker run -v slipway:%s", f.OverlayStore),
		fmt.Sprintf("volumes: [{name: slipway, emptyDir: {}}] with volumeMounts: [{name: slipway, mountPath: %s}]", f.OverlayStore))}
}

// inMemory is what a mode that isolates says of such a store.
func (f *Facts) inMemory() string {
	return fmt.Sprintf("what a step changes is in memory until it ends, up to %s, as the store is on an overlay", units.BytesSize(float64(f.Room)))
}

func whyRoot(f *Facts) string {
	if f.InUserNS {
		return "this is root, in a user namespace that is there already"
	}
	return "this is root"
}

// needsForUserNS is what is missing for any user namespace.
func needsForUserNS(f *Facts) *Need {
	err := errors.Join(f.UserNS, f.Mounts)
	switch {
	case err == nil:
		return f.needsVolume()
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EUSERS):
		return &Need{fmt.Sprintf("no more user namespaces may be made (user.max_user_namespaces is %d)", f.MaxUserNS),
			f.fix("sudo sysctl -w user.max_user_namespaces=28633", "on the host: sudo sysctl -w user.max_user_namespaces=28633",
				"on the node: sysctl -w user.max_user_namespaces=28633")}
	case errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL):
		return &Need{Text: fmt.Sprintf("the kernel has no user namespaces (%v)", err)}
	case f.Container == "" && f.AppArmorSysctl:
		return &Need{"AppArmor allows user namespaces to programs with a profile only (kernel.apparmor_restrict_unprivileged_userns)", AppArmorCommand(f.Program)}
	case f.OldSysctl:
		return &Need{"user namespaces are for root only (kernel.unprivileged_userns_clone is 0)", "sudo sysctl -w kernel.unprivileged_userns_clone=1"}
	case errors.Is(err, unix.EACCES):
		return f.confined()
	}
	return &Need{fmt.Sprintf("user namespaces are refused (%v), by a seccomp filter most likely", err), f.fix("start it without the filter, and not in a chroot",
		"docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined", "securityContext: {seccompProfile: {type: Unconfined}}")}
}

// confined is the need of who may not mount because of a profile.
func (f *Facts) confined() *Need {
	return &Need{"a profile of AppArmor or SELinux forbids mounts", f.fix("start it unconfined", "docker run --security-opt apparmor=unconfined",
		"securityContext: {appArmorProfile: {type: Unconfined}}")}
}

func needsForIdentity(f *Facts) *Need {
	if f.UID != 0 {
		return nothing
	}
	if n := needsForUserNS(f); n != nil {
		return n
	}
	if !f.cap(unix.CAP_SETUID) || !f.cap(unix.CAP_SETGID) {
		return &Need{"CAP_SETUID or CAP_SETGID is missing", f.fix("start it with these capabilities", "docker run --cap-add SETUID --cap-add SETGID",
			"securityContext: {capabilities: {add: [SETUID, SETGID]}}")}
	}
	return f.failed(Identity)
}

func whyIdentity(f *Facts) string {
	if f.cap(unix.CAP_SYS_ADMIN) && f.MountNS == nil {
		return "this is root, and a user namespace is asked for"
	}
	if !f.cap(unix.CAP_SETFCAP) {
		return "this is root without CAP_SYS_ADMIN and CAP_SETFCAP, and may make user namespaces with all users but itself"
	}
	return "this is root without CAP_SYS_ADMIN, and may make user namespaces"
}

func needsForSubordinate(f *Facts) *Need {
	if f.UID == 0 {
		return nothing
	}
	if n := needsForUserNS(f); n != nil {
		return n
	}
	install := "sudo apt-get install uidmap (Debian, Ubuntu) or sudo dnf install shadow-utils (Fedora, RHEL)"
	switch {
	case f.NoNewPrivs:
		return &Need{"no_new_privs is set, so newuidmap has no rights", f.fix("start it without no_new_privs (NoNewPrivileges= of systemd, setpriv)",
			"docker run without --security-opt no-new-privileges", "securityContext: {allowPrivilegeEscalation: true}")}
	case f.NewUIDMap == "" || f.NewGIDMap == "":
		return &Need{"newuidmap and newgidmap are not installed", f.fix(install, "install the package uidmap in the image", "install the package uidmap in the image")}
	case len(f.SubUIDs) == 0 || len(f.SubGIDs) == 0:
		return &Need{fmt.Sprintf("user %s has no subordinate IDs in /etc/subuid and /etc/subgid, nor elsewhere", f.User),
			fmt.Sprintf("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s", f.User)}
	}
	return f.failed(Subordinate)
}

func whySubordinate(f *Facts) string {
	return fmt.Sprintf("user %s is not root, and has subordinate IDs", f.User)
}

func needsForOne(f *Facts) *Need {
	if needsForUserNS(f) != nil { // which was said of a better way
		return nothing
	}
	if f.UID == 0 && !f.cap(unix.CAP_SETFCAP) {
		return &Need{"root without CAP_SETFCAP cannot be in a user namespace", f.fix("start it as another user", "docker run --user 1000", "securityContext: {runAsUser: 1000}")}
	}
	return f.failed(One)
}

func whyOne(f *Facts) string {
	if f.Failed != nil {
		return f.Failed.Err.Error()
	}
	if n := needsForIdentity(f); f.UID == 0 && n != nil {
		return n.Text
	}
	if n := needsForSubordinate(f); n != nil {
		return n.Text
	}
	return "it has one ID"
}

func needsForNone(f *Facts) *Need {
	switch {
	case f.Container == "":
		return &Need{Text: "outside of a container it would change the machine's own files"}
	case errors.Is(f.RootDir, unix.EROFS):
		return &Need{"/ is read-only", f.fix("", "docker run without --read-only", "securityContext: {readOnlyRootFilesystem: false}")}
	case f.RootDir != nil:
		return &Need{fmt.Sprintf("user %d cannot write to / (%v)", f.UID, f.RootDir), f.fix("", "docker run --user 0, or an image whose / that user may write to",
			"securityContext: {runAsUser: 0}, or an image whose / that user may write to")}
	}
	return nil
}

func whyNone(f *Facts) string {
	if n := needsForUserNS(f); n != nil {
		return n.Text
	}
	return "nothing else can be had in this container"
}
