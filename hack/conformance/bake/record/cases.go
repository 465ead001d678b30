package main

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-build/slipway/hack/conformance/bake"
)

// asCase makes a case of a call; args are those of the command line that does the same, without what it is asked for. It is
// nil where a call has no definition of this machine.
func (c *call) asCase(s *bake.Sources, baseline []string) (result *bake.Case, args []string) {
	result = &bake.Case{Name: c.Source}
	if c.Line > 0 {
		result.Name += fmt.Sprint(":", c.Line)
	}
	texts := map[string]bake.Text{}
	for name, data := range c.Tree {
		texts[name] = c.text(s, name, data)
	}
	args = c.files(s, texts)
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		result.Files = append(result.Files, bake.File{Name: name, Text: texts[name]})
	}
	result.Env = c.env(baseline)
	for _, o := range c.Overrides {
		args = append(args, "--set="+o)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Vars)) {
		args = append(args, "--var="+name+"="+c.Vars[name])
	}
	if c.Function == "buildx" {
		if len(c.Args) == 0 || c.Args[0] != "bake" || slices.ContainsFunc(c.Args, func(a string) bool { return strings.Contains(a, "://") && !strings.HasPrefix(a, "cwd://") }) {
			return nil, nil
		}
		args = slices.Clone(c.Args[1:])
	}
	for i := range args {
		args[i] = c.relative(args[i])
	}
	return result, args
}

// files adds the files of the call itself, and returns the flags that name them.
func (c *call) files(s *bake.Sources, texts map[string]bake.Text) (flags []string) {
	files := slices.Concat(c.Files, c.Fs)
	if c.Function == "ParseFile" {
		files = append(files, bakeFile{c.Fn, c.Data})
	}
	for i, f := range files {
		if f.Name == "" {
			f.Name = fmt.Sprintf("compose%d.yml", i)
		}
		name := strings.TrimPrefix(f.Name, c.Dir+"/")
		for { // above the directory is nothing
			rest, ok := strings.CutPrefix(name, "../")
			if !ok {
				break
			}
			name = rest
		}
		texts[strings.TrimPrefix(filepath.Clean("/"+name), "/")] = c.text(s, name, f.Data)
		flags = append(flags, "-f", name)
	}
	return flags
}

func (c *call) text(s *bake.Sources, name string, data []byte) bake.Text {
	if strings.HasSuffix(name, "/") {
		return bake.Text{}
	}
	sources := []string{c.Source}
	return s.Find(string(data), sources...)
}

func (c *call) relative(s string) string {
	if c.Dir != "" {
		s = strings.ReplaceAll(s, c.Dir, "$DIR")
	}
	return s
}

// env is what the call's environment has beside the baseline.
func (c *call) env(baseline []string) (env []string) {
	all := slices.Clone(c.Environ)
	for _, m := range []map[string]string{c.EnvOverrides, c.Envs} {
		for k, v := range m {
			all = append(all, k+"="+v)
		}
	}
	if c.Relative {
		all = append(all, "BUILDX_BAKE_FILE_RELATIVE_PATHS=1")
	}
	for _, e := range all {
		name, _, _ := strings.Cut(e, "=")
		if slices.Contains(baseline, e) || strings.HasPrefix(name, "CAPTURE") || slices.Contains([]string{"PWD", "OLDPWD", "BUILDX_CONFIG", "BUILDX_BUILDER", "PATH", "HOME", "TMPDIR", "SSH_AUTH_SOCK"}, name) {
			continue
		}
		env = append(env, c.relative(e))
	}
	slices.Sort(env)
	return slices.Compact(env)
}
