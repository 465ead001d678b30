package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/txtar"
)

// Case is a build context and the Dockerfiles that are built with it. Its txtar file has
//
//	Dockerfile, Dockerfile.NAME   what is built; they are not in the context
//	*.dockerignore                beside the Dockerfiles
//	context/PATH                  the context
//	setup                         commands that change the context, see [setup]
//	options                       lines "DOCKERFILE KEY=VALUE" or "* KEY=VALUE" with options of the
//	                              Dockerfile frontend (target=, build-arg:K=, platform=, ...), or
//	                              output=, allow=, secret=
//	again                         commands as in setup, and "build": what is cached then is compared
//	differs/DOCKERFILE            the lines in which slipway differs, after the reason
type Case struct {
	Name        string
	Dockerfiles []string // names, sorted

	files   map[string]string
	options map[string][]string // KEY=VALUE by name of the Dockerfile
}

// Load reads the cases in a directory, by name.
func Load(dir string) ([]*Case, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil {
		return nil, err
	}
	var all []*Case
	for _, p := range paths {
		c, err := load(p)
		if err != nil {
			return nil, fmt.Errorf("reading case %s: %w", filepath.Base(p), err)
		}
		all = append(all, c)
	}
	return all, nil
}

func load(path string) (*Case, error) {
	ar, err := txtar.ParseFile(path)
	if err != nil {
		return nil, err
	}
	c := &Case{
		Name:  strings.TrimSuffix(filepath.Base(path), ".txtar"),
		files: map[string]string{}, options: map[string][]string{},
	}
	for _, f := range ar.Files {
		if _, twice := c.files[f.Name]; twice {
			return nil, fmt.Errorf("%s comes twice", f.Name)
		}
		c.files[f.Name] = string(f.Data)
		switch dir, base, _ := strings.Cut(f.Name, "/"); {
		case dir == "context" && base != "", dir == "differs" && base != "", dir == "archive" && base != "":
		case f.Name == "setup", f.Name == "options", f.Name == "again", strings.HasSuffix(f.Name, ".dockerignore"):
		case strings.HasPrefix(f.Name, "Dockerfile"):
			c.Dockerfiles = append(c.Dockerfiles, f.Name)
		default:
			return nil, fmt.Errorf("what is %q?", f.Name)
		}
	}
	slices.Sort(c.Dockerfiles)
	if len(c.Dockerfiles) == 0 {
		return nil, fmt.Errorf("there is no Dockerfile")
	}
	return c, c.readOptions()
}

func (c *Case) readOptions() error {
	for line := range strings.Lines(c.files["options"]) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		name, option, _ := strings.Cut(line, " ")
		if !strings.Contains(option, "=") || (name != "*" && !slices.Contains(c.Dockerfiles, name)) {
			return fmt.Errorf("option %q: want DOCKERFILE KEY=VALUE", line)
		}
		c.options[name] = append(c.options[name], option)
	}
	return nil
}

// Options are the frontend's options for a Dockerfile.
func (c *Case) Options(dockerfile string) []string {
	return slices.Concat(c.options["*"], c.options[dockerfile])
}

// Differs are the lines in which slipway's record of a Dockerfile is to differ from BuildKit's,
// "-" before BuildKit's and "+" before slipway's; and the reason, which stands before them.
func (c *Case) Differs(dockerfile string) (reason string, lines []string) {
	for line := range strings.Lines(c.files["differs/"+dockerfile]) {
		line = strings.TrimRight(line, "\n")
		if len(lines) == 0 && !strings.HasPrefix(line, "-") && !strings.HasPrefix(line, "+") {
			reason += line + "\n"
			continue
		}
		if line != "" {
			lines = append(lines, line)
		}
	}
	return reason, lines
}

// Again are the commands between the builds of a case whose use of the cache is compared.
func (c *Case) Again() []string {
	return strings.Split(strings.TrimSpace(c.files["again"]), "\n")
}

// HasAgain reports whether the case is one that is built several times.
func (c *Case) HasAgain() bool { return c.files["again"] != "" }

// Dir is a case on disk.
type Dir struct {
	Context, Dockerfiles string
	archives             map[string]string
}

// Expand puts the context's path in the place of $CONTEXT.
func (d *Dir) Expand(option string) string { return strings.ReplaceAll(option, "$CONTEXT", d.Context) }

// Unpack writes the case below dir, which must not have been used for it.
func (c *Case) Unpack(dir string) (*Dir, error) {
	d := &Dir{Context: filepath.Join(dir, "context"), Dockerfiles: filepath.Join(dir, "dockerfiles"), archives: map[string]string{}}
	for _, sub := range []string{d.Context, d.Dockerfiles} {
		if err := os.Mkdir(sub, 0o755); err != nil {
			return nil, err
		}
	}
	for name, content := range c.files {
		to := filepath.Join(d.Dockerfiles, name)
		switch base := strings.TrimPrefix(name, "context/"); {
		case base != name:
			to = filepath.Join(d.Context, base)
		case strings.HasPrefix(name, "archive/"):
			d.archives[strings.TrimPrefix(name, "archive/")] = content
			continue
		case !strings.HasPrefix(name, "Dockerfile"):
			continue
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(to, []byte(content), 0o644); err != nil {
			return nil, err
		}
	}
	return d, d.Run(strings.Split(c.files["setup"], "\n"), true)
}
