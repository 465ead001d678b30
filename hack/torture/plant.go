package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A check that cannot fail finds nothing. So slipway is built once more, with all defects of a list in it, each of which
// is there when a variable names it, and each has to be found by rounds of its kind. The defects are edits to the
// sources that the go command compiles in place of those in the repository (go build -overlay): the program that
// is used has nothing of them.

// plantedVariable names the defect that slipway has.
const plantedVariable = "SLIPWAY_PLANTED"

// defect is one that is planted.
type defect struct {
	name, what string
	kind       string // of the rounds that have to find it
	tells      string // regular expression of what such a round says
	narrow     func(*settings)
	edits      []edit
}

// edit is a change to a file of the repository, in which the old text is once.
type edit struct{ file, old, new string }

// planting is what came of a defect.
type planting struct {
	defect
	rounds int64
	took   time.Duration
	told   string // by the round that found it
	err    error  // it was not found
}

// chooseDefects returns those to be planted.
func chooseDefects(s settings) ([]defect, error) {
	if s.plant == "" && s.run != "" {
		return nil, nil
	}
	re, err := regexp.Compile(s.plant)
	if err != nil {
		return nil, fmt.Errorf("reading -plant: %w", err)
	}
	return slices.DeleteFunc(slices.Clone(defects), func(d defect) bool { return !re.MatchString(d.name) }), nil
}

// plantAll plants defects, one after the other.
func (g *ground) plantAll(ctx context.Context, all []defect) (done []planting, err error) {
	if len(all) == 0 || ctx.Err() != nil {
		return nil, nil
	}
	program := sync.OnceValues(func() (string, error) { return g.plantedProgram(ctx) })
	for _, d := range all {
		i := slices.IndexFunc(kinds(), func(k kind) bool { return k.name == d.kind })
		k := kinds()[i]
		if k.needs != nil && k.needs() != nil {
			fmt.Fprintf(os.Stderr, "planted  %s left out: %v\n", d.name, k.needs())
			continue
		}
		p, perr := g.plantOnce(ctx, program, d, k)
		if ctx.Err() != nil {
			break
		}
		if perr != nil {
			return done, errors.Join(err, perr)
		}
		done = append(done, p)
		err = errors.Join(err, p.err)
		how := "found"
		if p.err != nil {
			how = "NOT found"
		}
		fmt.Fprintf(os.Stderr, "planted  %s %s by %s after %d rounds, %s: %.150q\n", d.name, how, d.kind, p.rounds, p.took.Round(time.Second), p.told)
	}
	return done, err
}

// plantOnce plants a defect, unless the journal tells what came of it.
func (g *ground) plantOnce(ctx context.Context, program func() (string, error), d defect, k kind) (planting, error) {
	if e, ok := g.journal.plant(d.name); ok {
		return planting{defect: d, rounds: e.Rounds, took: e.took(), told: e.Told, err: e.failure()}, nil
	}
	path, err := program()
	if err != nil {
		return planting{}, fmt.Errorf("building slipway with planted defects: %w", err)
	}
	p := g.plant1(ctx, path, d, k)
	if ctx.Err() != nil {
		return p, nil
	}
	return p, g.journal.add(entry{Planted: d.name, Rounds: p.rounds, Told: p.told, Failed: failed(p.err), Seconds: p.took.Seconds()})
}

// maxPlanted is how many rounds may not find a planted defect.
const maxPlanted = 150

// plant1 does rounds of a kind with a defect until one finds it.
func (g *ground) plant1(ctx context.Context, program string, d defect, k kind) planting {
	of := *g
	of.slipway, of.planted, of.short, of.keep = program, d.name, true, false
	if d.narrow != nil {
		d.narrow(&of.settings)
	}
	tells := regexp.MustCompile(d.tells)
	p := planting{defect: d}
	workers := g.workers
	if k.alone {
		workers = 1
	}
	begin := time.Now()
	var mu sync.Mutex
	var count, rounds atomic.Int64
	var wg sync.WaitGroup
	ctx, found := context.WithCancel(ctx)
	defer found()
	other := ""
	for range workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				n := rounds.Add(1)
				if n > maxPlanted {
					return
				}
				err := of.one(ctx, k, g.seed+uint64(n-1), &count)
				if err == nil || ctx.Err() != nil {
					continue
				}
				what, _, _ := strings.Cut(err.Error(), "\nwhat was done:")
				mu.Lock()
				if tells.MatchString(what) {
					p.told = what
					found()
				} else {
					other = err.Error()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	p.rounds, p.took = min(rounds.Load(), maxPlanted), time.Since(begin)
	if ctx.Err() == nil {
		p.err = fmt.Errorf("the planted defect %s (%s) was not found by %d rounds of %s", d.name, d.what, p.rounds, k.name)
		if other != "" {
			p.err = fmt.Errorf("%w, which found something else: %s", p.err, other)
		}
	}
	return p
}

// planted is what tells which defect there is.
const planted = `package store

import "os"

func planted(name string) bool { return os.Getenv("` + plantedVariable + `") == name }
`

// plantedProgram builds slipway with all defects, by the source that is in or above the working directory.
func (g *ground) plantedProgram(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("looking for the source of slipway: %w (-plant none does without)", err)
	}
	top := strings.TrimSpace(string(out))
	changed, err := plantedSources(top)
	if err != nil {
		return "", err
	}
	replace := map[string]string{}
	dir := g.path("planted")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	for file, text := range changed {
		replace[filepath.Join(top, file)] = filepath.Join(dir, strings.ReplaceAll(file, "/", "-"))
		if err := os.WriteFile(replace[filepath.Join(top, file)], []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	list, program := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "slipway")
	if err := os.WriteFile(list, overlay, 0o644); err != nil {
		return "", err
	}
	script := `hack/patched.sh && CGO_ENABLED=1 hack/go.sh build -modfile=build/patched/go.mod -trimpath -buildvcs=false ` +
		`-tags "seccomp netgo osusergo grpcnotrace" -ldflags "-s -w -extldflags -static" -overlay "$1" -o "$2" ./cmd/slipway`
	cmd := exec.CommandContext(ctx, "sh", "-ec", script, "sh", list, program)
	cmd.Dir = top
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, lastLines(string(out), 20))
	}
	return program, nil
}

// plantedSources are the files of the repository with all defects in them.
func plantedSources(top string) (map[string]string, error) {
	changed := map[string]string{"internal/store/planted.go": planted}
	for _, d := range defects {
		for _, e := range d.edits {
			text, ok := changed[e.file]
			if !ok {
				data, err := os.ReadFile(filepath.Join(top, e.file))
				if err != nil {
					return nil, err
				}
				text = string(data)
			}
			if n := strings.Count(text, e.old); n != 1 {
				return nil, fmt.Errorf("the planted defect %s wants this once in %s, where it is %d times:\n%s", d.name, e.file, n, e.old)
			}
			changed[e.file] = strings.Replace(text, e.old, e.new, 1)
		}
	}
	return changed, nil
}
