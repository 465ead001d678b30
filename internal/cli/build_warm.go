package cli

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/terminal"
)

// warmFlags are those of builds whose steps find the caches of their tools.
type warmFlags struct {
	warm       bool
	verifyWarm string
}

func (o *warmFlags) add(f *pflag.FlagSet) {
	addWarm(f, &o.warm)
	f.StringVar(&o.verifyWarm, "verify-warm", "", `Build without warm caches as well, and tell which files are not the same; implies "--warm" ("warn", "strict": exit code 1)`)
	f.Lookup("verify-warm").NoOptDefVal = "warn"
}

func addWarm(f *pflag.FlagSet, on *bool) {
	f.BoolVar(on, "warm", false, `Let "RUN" instructions find the caches of their tools (Go, npm, pip, cargo, Maven, ...) as earlier builds of the project left them, where the image does not show it`)
}

// set says in a request what is warm: for the flags, and for what the configuration says of a project.
func (o *warmFlags) set(a *app, req *build.Request) error {
	switch o.verifyWarm {
	case "", "warn", "strict":
	default:
		return fmt.Errorf("--verify-warm=%s: want warn or strict", o.verifyWarm)
	}
	req.Warm, req.VerifyWarm = o.warm || o.verifyWarm != "", o.verifyWarm != ""
	return a.configuredWarm(req)
}

// configuredWarm says in a request what is warm for what the configuration says of its project.
func (a *app) configuredWarm(req *build.Request) error {
	if a.settings == nil || a.settings.Warm == nil {
		return nil
	}
	for _, p := range a.settings.Warm.Paths {
		if !filepath.IsAbs(p) && !strings.HasPrefix(p, "~/") {
			return fmt.Errorf("reading the configuration: path %q of [warm] is neither absolute nor below ~", p)
		}
	}
	req.WarmPaths = a.settings.Warm.Paths
	dir := "" // of a context that is one
	if fi, err := os.Stat(req.Context); err == nil && fi.IsDir() && req.Context != "" {
		if dir, err = filepath.Abs(req.Context); err != nil {
			return err
		}
	}
	for _, p := range a.settings.Warm.Projects {
		if !filepath.IsAbs(p) {
			return fmt.Errorf("reading the configuration: project %q of [warm] is not absolute", p)
		}
		rel, rerr := filepath.Rel(p, dir)
		req.Warm = req.Warm || dir != "" && rerr == nil && filepath.IsLocal(rel)
	}
	return nil
}

// printVerifiedWarm tells what is not as it is without warm caches, and makes an error of that if it is to be one.
func (a *app) printVerifiedWarm(r *build.Result, how, mode string) error {
	v := r.VerifiedWarm
	if how == "" || v == nil {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nVerified --warm: ")
	switch {
	case v.Same() && v.Times > 0:
		fmt.Fprintf(&b, "%s is the same without warm caches, but for times of %s\n", v.Name, count(v.Times, "file"))
	case v.Same():
		fmt.Fprintf(&b, "%s is the same without warm caches\n", v.Name)
	default:
		fmt.Fprintf(&b, "%s is another one without warm caches\n", v.Name)
		tellVerified(&b, *v)
	}
	if mode != "quiet" && mode != "none" && mode != "rawjson" {
		if _, err := io.WriteString(a.stderr, b.String()); err != nil {
			return err
		}
	}
	if !v.Same() && how == "strict" {
		return fmt.Errorf("%s differs from what is built without warm caches", v.Name)
	}
	return nil
}

// offerWarm tells of a step that would have been shorter in a warm build.
func (a *app) offerWarm(mode string, r *build.Result) {
	if r.Offer == nil || mode == "quiet" || mode == "none" || mode == "rawjson" {
		return
	}
	name := r.Offer.Name
	if _, rest, ok := strings.Cut(name, "] "); ok {
		name = rest
	}
	fmt.Fprintf(a.stderr, "%s took %.0f s; with --warm later builds reuse the cache of %s\n", terminal.Line(terminal.Short(name, 60)), r.Offer.Took.Seconds(), r.Offer.Tool)
}
