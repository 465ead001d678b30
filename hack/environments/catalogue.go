package environments

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// volume is where stores are in environments that have one.
const volume = "/store"

// unconfined takes the seccomp profile away.
func unconfined(s *specs.Spec) { s.Linux.Seccomp = &specs.LinuxSeccomp{} }

// restricted is what Kubernetes' level of this name asks for.
func restricted(s *specs.Spec) {
	s.Process.User = specs.User{UID: 1000, GID: 1000}
	s.Process.NoNewPrivileges = true
	setCapabilities(s)
	s.Process.Env = append(s.Process.Env, "HOME=/")
}

// privileged has everything that this machine gives.
func privileged(s *specs.Spec) {
	unconfined(s)
	setCapabilities(s, ownCapabilities()...)
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
	s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	for i, m := range s.Mounts {
		if m.Type == "sysfs" || m.Type == "cgroup" {
			s.Mounts[i].Options = slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return o == "ro" })
		}
	}
}

func with(name string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		setCapabilities(s, append(slices.Clone(s.Process.Capabilities.Bounding), name)...)
	}
}

func user1000(s *specs.Spec) {
	s.Process.User = specs.User{UID: 1000, GID: 1000}
	setCapabilities(s)
}

// memory limits it, in bytes.
func memory(limit int64) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit} }
}

func all(changes ...func(*specs.Spec)) func(*specs.Spec) {
	return func(s *specs.Spec) {
		for _, c := range changes {
			c(s)
		}
	}
}

// Catalogue is every environment. The first one is the one that all are compared with.
func Catalogue() []Environment {
	return []Environment{
		{Name: "root", What: "root of the machine", User: &User{}},
		{Name: "user", What: "a user with subordinate IDs", User: &User{UID: 4711, SubIDs: true}},
		{Name: "user-one", What: "a user without subordinate IDs", User: &User{UID: 4712}},
		{Name: "user-nnp", What: "a user with subordinate IDs under no_new_privs", User: &User{UID: 4713, SubIDs: true, NoNewPr: true}},

		{Name: "privileged", What: "`docker run --privileged`", Volume: volume, Change: privileged},
		{Name: "sys-admin", What: "`--cap-add SYS_ADMIN`", Volume: volume, Change: with("CAP_SYS_ADMIN")},
		{Name: "unconfined", What: "`--security-opt seccomp=unconfined`; a pod without a seccomp profile", Volume: volume, Change: unconfined},
		{Name: "unconfined-unmasked", What: "the same with `systempaths=unconfined`", Volume: volume,
			Change: all(unconfined, func(s *specs.Spec) { s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil })},
		{Name: "sys-admin-no-volume", What: "SYS_ADMIN without a volume for the store", Change: with("CAP_SYS_ADMIN")},
		{Name: "unconfined-no-volume", What: "seccomp=unconfined without a volume for the store", Change: unconfined},
		{Name: "unconfined-no-memory", What: "the same with 1.75 GB of memory, which is less than steps need whose changes are in it", Change: all(unconfined, memory(7<<28))},
		{Name: "unconfined-user", What: "seccomp=unconfined, uid 1000", Volume: volume, Change: all(unconfined, user1000)},
		{Name: "unconfined-restricted", What: "a pod at level restricted with a seccomp profile of the node (Localhost) that allows namespaces", Volume: volume, Pod: true,
			Change: all(restricted, unconfined)},
		{Name: "unconfined-restricted-no-volume", What: "the same without a volume for the store", Image: SkeletonImage, Pod: true, Change: all(restricted, unconfined)},
		{Name: "unconfined-read-only", What: "seccomp=unconfined and a read-only root", Volume: volume, Root: ReadOnlyRoot, Change: unconfined},
		{Name: "setid", What: "SETUID and SETGID alone, seccomp=unconfined", Volume: volume, Pod: true,
			Change: all(unconfined, func(s *specs.Spec) { setCapabilities(s, "CAP_SETUID", "CAP_SETGID") })},
		{Name: "pod-sys-admin", What: "hostUsers: false, SYS_ADMIN", UserNamespace: true, Volume: volume, Pod: true, Change: with("CAP_SYS_ADMIN")},
		{Name: "pod-unconfined", What: "hostUsers: false, seccomp Unconfined", UserNamespace: true, Volume: volume, Pod: true, Change: unconfined},

		{Name: "docker", What: "`docker run`, GitLab's docker executor, `container:` jobs, Fargate"},
		{Name: "docker-volume", What: "the same with a volume for the store", Volume: volume},
		{Name: "docker-plain-root", What: "the same, the root filesystem is no overlay", Root: PlainRoot},
		{Name: "docker-read-only", What: "a read-only root", Root: ReadOnlyRoot, Volume: volume},
		{Name: "pod", What: "a pod with hostUsers: false and RuntimeDefault", UserNamespace: true, Pod: true},
		{Name: "no-namespaces", What: "user.max_user_namespaces = 0", UserNamespace: true, NoNamespaces: true, Change: unconfined},
		{Name: "restricted", What: "a pod at level restricted", Image: SkeletonImage, Pod: true, Change: restricted},
		{Name: "openshift", What: "OpenShift's restricted-v2: a random uid, gid 0", Image: SkeletonImage, RootMode: true, Pod: true,
			Change: all(restricted, func(s *specs.Spec) { s.Process.User = specs.User{UID: 1000670000, GID: 0} })},
	}
}

// Find is an environment by its name.
func Find(name string) (Environment, bool) {
	all := Catalogue()
	i := slices.IndexFunc(all, func(e Environment) bool { return e.Name == name })
	if i < 0 {
		return Environment{}, false
	}
	return all[i], true
}
