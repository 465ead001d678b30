// Package environments makes places with few rights in which slipway is tried: containers as Docker, Kubernetes and
// OpenShift start them, by runc with specifications made here, and plain users of the machine. It needs root and runc.
//
// # Structure
//
// An [Environment] says what a place is like (catalogue.go). A [Ground] has what all of them need on disk: the files
// of the images that containers start from (images.go), the program, and what listens for them (network.go).
// [Ground.Open] gives a [Place], whose Run carries out a command there, in a new container with the same root
// (container.go) or as the user (user.go). The test of this package is the table "environment x Dockerfile -> mode,
// result"; hack/bench times slipway in the same places.
//
// # Caveats
//
// The seccomp profile is moby's own, from its module; capabilities, masked and read-only paths are containerd's, which
// are Docker's. AppArmor, SELinux and gVisor are not here. Everything that is mounted is mounted in namespaces that end with the
// process that has them, so that nothing is left of a run that was killed.
package environments

import (
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Environment is a kind of place.
type Environment struct {
	Name string
	// What is a line for people: where one meets such a place.
	What string

	// User is who runs the program on the machine itself; nil: it is in a container.
	User *User

	// Of containers. Root is what their root filesystem is, and Image what is in it.
	Root  Root
	Image Image
	// UserNamespace: the container has one, as pods with hostUsers: false.
	UserNamespace bool
	// Volume is where a directory of the machine is mounted; "" for none. The store is there then. In a pod it is an emptyDir.
	Volume string
	// RootMode: the root directory has the mode that it has in the image, as CRI-O gives it, and not the owner alone.
	RootMode bool
	// Pod: there is a token of Kubernetes, mounted below /var/run.
	Pod bool
	// Change makes of the specification of a container by Docker what this one has. nil: nothing.
	Change func(*specs.Spec)
	// NoNamespaces: the limit of user namespaces is 0 in the container's own one.
	NoNamespaces bool
}

// User is a user of the machine. It is in no file of the machine: it has its own /etc/passwd, /etc/subuid and so on.
type User struct {
	UID     int
	SubIDs  bool // 65536 subordinate IDs
	NoNewPr bool // no_new_privs is set
}

// Root is a kind of root filesystem of a container.
type Root int

const (
	// OverlayRoot is what nearly all runtimes give: an overlay of the image's layers and a directory of the container.
	OverlayRoot Root = iota
	// PlainRoot is a directory, as storage drivers without layers give.
	PlainRoot
	// ReadOnlyRoot is an overlay that is mounted read-only.
	ReadOnlyRoot
)

// Image is what a container starts from.
type Image int

const (
	// ShellImage is a small system to which somebody added slipway.
	ShellImage Image = iota
	// SkeletonImage has slipway and a shell in a directory of their own, and empty directories that everybody may write.
	SkeletonImage
	// OwnImage is slipway's own image, DebugImage the one with a shell, and DaemonImage the one on Debian, of contrib/image.
	OwnImage
	DebugImage
	DaemonImage
)
