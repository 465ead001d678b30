package inplace

import (
	"errors"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/layer"
)

// deviceDirs are mounts of the container's that steps write to, and which are to be as they were afterwards.
var deviceDirs = []string{"dev", "dev/shm", "dev/mqueue"}

// devices lists what is in those directories.
func (m *Machine) devices() (map[string]bool, error) {
	all := map[string]bool{}
	for _, dir := range deviceDirs {
		if !m.stays["dev"] {
			return nil, nil // it is no mount, and goes with the step
		}
		fd, err := openDir(m.root, dir)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, moving(dir, err)
		}
		names, err := readNames(fd)
		unix.Close(fd)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			all[join(dir, name)] = true
		}
	}
	return all, nil
}

// dropDevices removes what was not in them before. A file that is new and in use by somebody else is no step's: the name of
// what slipway makes there begins with its own.
func (m *Machine) dropDevices(before map[string]bool) error {
	if before == nil {
		return nil
	}
	now, err := m.devices()
	if err != nil {
		return err
	}
	for path := range now {
		if before[path] || strings.HasPrefix(filepath.Base(path), "slipway-") {
			continue
		}
		if err := layer.RemoveAll(filepath.Join(m.opt.Root, path)); err != nil {
			return err
		}
	}
	return nil
}
