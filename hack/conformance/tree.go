package conformance

import (
	"path"
	"strings"
)

// tree has the paths that the layers so far have; true for directories.
type tree map[string]bool

// add puts the lines of a layer, by path, on top.
func (t tree) add(lines map[string]string) {
	for name, line := range lines {
		isDir := strings.HasPrefix(line, "dir ")
		if was, there := t[name]; there && was && !isDir {
			for below := range t {
				if strings.HasPrefix(below, name+"/") && lines[below] == "" {
					delete(t, below)
				}
			}
		}
		t[name] = isDir
		if strings.HasPrefix(line, "whiteout ") {
			delete(t, name)
		}
	}
}

// hide adds to the lines of a layer a whiteout of each thing below dir that the layer does not have
// itself.
func (t tree) hide(dir string, lines map[string]string) {
	for name := range t {
		if !strings.HasPrefix(name, dir+"/") || lines[name] != "" {
			continue
		}
		if parent := path.Dir(name); parent == dir || strings.HasPrefix(lines[parent], "dir ") {
			lines[name] = "whiteout " + name
		}
	}
}
