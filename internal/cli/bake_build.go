package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/bake"
	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/config"
	"github.com/slipway-build/slipway/internal/progress"
)

// buildDefaults are what builds are that say nothing else: as the configuration has it.
func (a *app) buildDefaults() (build.Request, error) {
	opts, err := a.configuredBuild(func(b *config.Build) config.Build { return *b })
	if err != nil {
		return build.Request{}, err
	}
	req, err := opts.request(a, "")
	if err == nil {
		req.Attest, err = opts.outputFlags.attestations()
	}
	return req, err
}

// configuredBuild are the flags of a build for which nobody gives any, with a part of what the configuration says of them.
func (a *app) configuredBuild(part func(*config.Build) config.Build) (*buildFlags, error) {
	opts := &buildFlags{}
	f := pflag.NewFlagSet("build", pflag.ContinueOnError)
	opts.add(f)
	if a.settings == nil {
		return opts, nil
	}
	return opts, set(f, part(&a.settings.Build))
}

// bakeShown is what is shown and written of builds, and how they are carried out.
type bakeShown struct {
	progress, metadataFile, call string
	warm                         bool
	tellFlags
	failureFlags
}

// buildTargets builds what a definition has, and shows and writes what the flags ask for.
func (a *app) buildTargets(ctx context.Context, opts bakeShown, def *bake.Definition, display *openDisplay) error {
	base, err := a.buildDefaults()
	if err != nil {
		return err
	}
	if err := opts.failureFlags.set(&base); err != nil {
		return err
	}
	base.Warm = base.Warm || opts.warm
	base.Command = withoutValues(os.Args)
	if opts.metadataFile != "" {
		base.TellProvenance = toldProvenance()
	}
	builds, err := def.Builds(ctx, base, a.stdout)
	if err != nil {
		return err
	}
	for i := range builds {
		if err := a.configuredWarm(&builds[i].Request); err != nil {
			return err
		}
		hosts := &builds[i].Request.AddHosts
		if *hosts, err = extraHosts(*hosts); err != nil {
			return fmt.Errorf("target %s: %w", builds[i].Name, err)
		}
	}
	told := told{tellFlags: opts.tellFlags}
	for i := range builds {
		told.of(&builds[i].Request)
	}
	results, err := a.buildAll(ctx, builds, display)
	warnings := display.Wait()
	if opts.progress != "quiet" && opts.progress != "none" && opts.progress != "rawjson" {
		a.printWarnings(warnings)
	}
	a.tellOutput(opts.progress, err)
	serr := told.summarize()
	if err := errors.Join(a.afterFailure(ctx, &opts.failureFlags, &told, "", err), serr); err != nil {
		return err
	}
	a.tellTimes(opts.progress, &told)
	if opts.metadataFile != "" {
		all := map[string]any{}
		for i, b := range builds {
			all[b.Name] = a.metadata(results[i])
		}
		if call, err := parseCall(opts.call); err == nil && call.name == "" {
			addWarnings(all, warnings)
		}
		if err := writeMetadata(opts.metadataFile, all); err != nil {
			return err
		}
	}
	return a.printCalls(opts, def, builds, results)
}

// buildAll carries builds out, and hands images to a daemon where that is asked for.
func (a *app) buildAll(ctx context.Context, builds []bake.Build, to progress.Sink) ([]*build.Result, error) {
	b, err := a.Builder(nil)
	if err != nil {
		return nil, err
	}
	var loaders []*imageLoader
	for i := range builds {
		a.willRead(&builds[i].Request)
		if !builds[i].Load {
			continue
		}
		loader, err := a.addLoader(ctx, &builds[i].Request)
		if err != nil {
			return nil, err
		}
		loaders = append(loaders, loader)
	}
	results, err := bake.Run(ctx, b, builds, to)
	for _, l := range loaders {
		err = l.finish(err)
	}
	return results, err
}

// printCalls shows what --call, or a target's own call, was answered.
func (a *app) printCalls(opts bakeShown, def *bake.Definition, builds []bake.Build, results []*build.Result) error {
	all, err := parseCall(opts.call)
	if err != nil {
		return err
	}
	answers := map[string]map[string]any{}
	code, shown := 0, 0
	for i, b := range builds {
		if b.Call == "" {
			continue
		}
		method, answer := callMethod{name: b.Call}, results[i].Answer
		if all.name != "" {
			method.json, method.ignoreStatus = all.json, all.ignoreStatus
		}
		if all.json {
			answers[b.Name] = map[string]any{}
			code = max(code, method.collect(answers[b.Name], answer))
			continue
		}
		if shown++; shown > 1 {
			fmt.Fprintln(a.stdout)
		}
		fmt.Fprintf(a.stdout, "%s\n", b.Name)
		if b.Description != "" {
			fmt.Fprintf(a.stdout, "%s\n", b.Description)
		}
		fmt.Fprintln(a.stdout)
		err := method.print(a.stdout, answer)
		var failed *codeError
		switch {
		case err == nil:
		case errors.As(err, &failed) && failed.err == nil:
			if code == 0 {
				code = failed.code
			}
		default:
			fmt.Fprintf(a.stdout, "error: %v\n", err)
			code = 1
		}
	}
	if all.json {
		if err := printCallsJSON(a.stdout, def, builds, answers); err != nil {
			return err
		}
	}
	if code != 0 {
		return &codeError{code: code}
	}
	return nil
}

// printCallsJSON prints targets with what was answered for them, in buildx' shape.
func printCallsJSON(w io.Writer, def *bake.Definition, builds []bake.Build, answers map[string]map[string]any) error {
	out := struct {
		Group  map[string]*bake.Group    `json:"group,omitempty"`
		Target map[string]map[string]any `json:"target"`
	}{def.Groups, map[string]map[string]any{}}
	for _, b := range builds {
		out.Target[b.Name] = map[string]any{"build": def.Targets[b.Name]}
		if answer, ok := answers[b.Name]; ok {
			name := b.Call
			if name == "lint" {
				name = "check"
			}
			out.Target[b.Name][name] = answer
		}
	}
	text, err := json.MarshalIndent(out, "", "  ")
	if err == nil {
		_, err = fmt.Fprintln(w, string(text))
	}
	return err
}
