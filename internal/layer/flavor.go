package layer

// Flavor is the family of extended attributes in which overlayfs keeps its marks in layer directories: trusted.* can be read
// and written by root of the machine alone, user.* by everybody, and by mounts with the option userxattr, which a user
// namespace needs. All directories of a store have one flavor.
type Flavor uint8

const (
	// Trusted is that of root of the machine.
	Trusted Flavor = iota
	// User is that of everybody else: of ordinary users, of root in a user namespace, and of root without CAP_SYS_ADMIN.
	User
)

func (f Flavor) String() string {
	if f == User {
		return "user"
	}
	return "trusted"
}

// opaque is the attribute that marks opaque directories.
func (f Flavor) opaque() string {
	if f == User {
		return userOverlayPrefix + "opaque"
	}
	return overlayPrefix + "opaque"
}

// whiteout is the attribute of an empty file that is a whiteout, where there can be no device that is one: on an overlay
// filesystem, as the root of a container is. Overlayfs takes it for one too (Linux 6.7), in a directory that is marked.
func (f Flavor) whiteout() string {
	if f == User {
		return userOverlayPrefix + "whiteout"
	}
	return overlayPrefix + "whiteout"
}
