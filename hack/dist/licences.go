package main

import (
	"debug/buildinfo"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// licenceFile is what files are called that hold a licence, or what it wants to be told.
var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents|copyright)([.-].*)?$`)

// licences writes the texts that are with what a binary has linked: of the Go library, of each module, of C libraries.
func (d *dist) licences(w io.Writer, binary string) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return err
	}
	dirs, err := moduleDirs()
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "slipway is licensed under Apache-2.0. Its program has the following linked in, under these licences.\n")
	goroot, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("looking for Go: %w", err)
	}
	if err := section(w, "The Go library, "+info.GoVersion, strings.TrimSpace(string(goroot))); err != nil {
		return err
	}
	for _, m := range info.Deps {
		dir := dirs[m.Path+"@"+m.Version]
		if dir == "" {
			return fmt.Errorf("the go command does not know where %s %s is", m.Path, m.Version)
		}
		if err := section(w, m.Path+" "+m.Version, dir); err != nil {
			return err
		}
	}
	if err := section(w, "libdeflate (internal/libdeflate)", "internal/libdeflate"); err != nil {
		return err
	}
	for _, l := range d.libraries {
		data, err := os.ReadFile(l.copyright)
		if err != nil {
			return err
		}
		title(w, fmt.Sprintf("%s %s (Debian's package, whose source has this version)", l.name, l.version))
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	return nil
}

// moduleDirs tells where the modules are that the go command knows, by PATH@VERSION.
func moduleDirs() (map[string]string, error) {
	cmd := exec.Command("go", "list", "-mod=readonly", "-m", "-f", "{{.Path}}@{{.Version}}\t{{.Dir}}", "all")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("listing modules: %w", err)
	}
	dirs := map[string]string{}
	for line := range strings.Lines(string(out)) {
		module, dir, _ := strings.Cut(strings.TrimSpace(line), "\t")
		dirs[module] = dir
	}
	return dirs, nil
}

// section writes the licences that are in a directory. Without one of them nobody may pass the program on.
func section(w io.Writer, name, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	entries = slices.DeleteFunc(entries, func(e os.DirEntry) bool { return !e.Type().IsRegular() || !licenceFile.MatchString(e.Name()) })
	if len(entries) == 0 {
		return fmt.Errorf("%s has no licence in %s", name, dir)
	}
	title(w, name)
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "--- %s\n\n%s\n", e.Name(), strings.TrimRight(string(data), "\n"))
	}
	return nil
}

func title(w io.Writer, name string) {
	fmt.Fprintf(w, "\n%s\n%s\n\n", strings.Repeat("=", 80), name)
}
