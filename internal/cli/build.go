package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/docker/go-units"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/heap"
)

// buildsHeap is what a build takes of the heap when all its steps are cached, in bytes; others take more.
const buildsHeap = 2 << 20

// buildFlags are the flags of a build as they were given.
type buildFlags struct {
	tags, buildArgs, labels, addHosts, ulimits, securityOpts []string
	file, target, network, iidFile, metadataFile, progress   string
	cgroupParent                                             string
	noCache, pull, quiet                                     bool
	shmSize, dumpKeys                                        string
	secretFlags
	contextFlags
	outputFlags
	limitFlags
	cacheFlags
	tellFlags
	failureFlags
	call          string
	noCacheFilter []string
	policy        []string
	verifyCache   string
	warmFlags
	onFlags
	squash bool
}

func newBuildCmd(a *app) *cobra.Command {
	var opts buildFlags
	cmd := &cobra.Command{
		Use:   "build [OPTIONS] PATH | URL | -",
		Short: "Build an image from a Dockerfile",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := errors.Join(a.checkCompat(cmd, &opts), a.checkFailureShell(cmd, &opts.failureFlags)); err != nil {
				return err
			}
			if opts.on != "" {
				return a.buildOn(cmd.Context(), cmd.Flags(), &opts, args[0])
			}
			return a.runBuild(cmd.Context(), &opts, args[0])
		},
	}
	if !a.calls(cmd) {
		return cmd
	}
	opts.add(cmd.Flags())
	addCallFlags(cmd, &opts)
	a.addCompatFlags(cmd, &opts)
	return cmd
}

// add adds the flags, but for those of addCallFlags and addCompatFlags.
func (o *buildFlags) add(f *pflag.FlagSet) {
	o.secretFlags.add(f)
	o.contextFlags.add(f)
	o.outputFlags.add(f)
	o.limitFlags.add(f)
	o.cacheFlags.add(f)
	o.tellFlags.add(f)
	o.failureFlags.add(f, failureNone)
	o.onFlags.add(f)
	f.StringArrayVarP(&o.tags, "tag", "t", nil, `Image identifier (format: "[registry/]repository[:tag]")`)
	f.StringVarP(&o.file, "file", "f", "", `Name of the Dockerfile: a path, a URL, or "-" for standard input (default: "PATH/Dockerfile")`)
	f.StringVar(&o.target, "target", "", "Set the target build stage to build, by name or number")
	f.BoolVar(&o.noCache, "no-cache", false, "Do not use cache when building the image")
	addVerifyFlag(f, &o.verifyCache)
	o.warmFlags.add(f)
	f.BoolVar(&o.pull, "pull", false, "Always attempt to pull all referenced images")
	f.StringArrayVar(&o.buildArgs, "build-arg", nil, `Set build-time variables (format: "KEY=VALUE", or "KEY" to take it from the environment)`)
	f.StringArrayVar(&o.labels, "label", nil, "Set metadata for an image")
	f.StringVar(&o.network, "network", "default", `Set the networking mode for the "RUN" instructions during build ("default", "host", "none")`)
	f.StringArrayVar(&o.addHosts, "add-host", nil, `Add a custom host-to-IP mapping (format: "host:ip")`)
	f.StringVar(&o.iidFile, "iidfile", "", "Write the image ID to a file")
	f.StringVar(&o.metadataFile, "metadata-file", "", "Write build result metadata to a file")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "Suppress the build output and print image ID on success")
	f.StringVar(&o.progress, "progress", cmp.Or(os.Getenv("BUILDKIT_PROGRESS"), "auto"), `Set type of progress output ("auto", "none", "plain", "quiet", "rawjson", "tty"). Use plain to show container output`)
	f.StringVar(&o.shmSize, "shm-size", "", "Shared memory size for build containers, such as 128m")
	f.StringArrayVar(&o.ulimits, "ulimit", nil, `Ulimit options (format: "NAME=SOFT[:HARD]")`)
	f.StringVar(&o.cgroupParent, "cgroup-parent", "", `Set the parent cgroup for the "RUN" instructions during build`)
	f.StringVar(&o.dumpKeys, "dump-keys", "", "Write the labelled lines of every step's cache key to a file")
}

// request turns flags into what the builder takes.
func (o *buildFlags) request(a *app, contextArg string) (req build.Request, err error) {
	req = build.Request{
		Context:     contextArg,
		Dockerfile:  o.file,
		Target:      o.target,
		NoCache:     o.noCache,
		Pull:        o.pull,
		VerifyCache: o.verifyCache != "",
		Tags:        o.tags,
		Labels:      keyValues(o.labels, nil),
		BuildArgs:   withEpoch(withProxies(keyValues(o.buildArgs, os.LookupEnv))),
	}
	switch o.verifyCache {
	case "", "warn", "strict":
	default:
		return req, fmt.Errorf("--verify-cache=%s: want warn or strict", o.verifyCache)
	}
	if err := o.steps(&req); err != nil {
		return req, err
	}
	if len(o.noCacheFilter) > 0 {
		req.Attrs["no-cache"] = strings.Join(o.noCacheFilter, ",")
	}
	call, err := parseCall(o.call)
	if err != nil {
		return req, err
	}
	req.Call = call.request()
	if err := errors.Join(o.secretFlags.set(&req), o.contextFlags.set(a, &req), o.cacheFlags.request(&req), o.failureFlags.set(&req), o.warmFlags.set(a, &req)); err != nil {
		return req, err
	}
	return req, err
}

// steps sets what protects and limits steps, and what they see of the network.
func (o *buildFlags) steps(req *build.Request) (err error) {
	req.Network, req.MaxProcesses, req.AppArmor, req.Attrs = o.network, o.pids, appArmorOf(o.securityOpts), map[string]string{}
	if req.UserNS, err = userNS(o.userns); err != nil {
		return err
	}
	switch o.network {
	case "default", "host", "none", "":
	default:
		return fmt.Errorf("--network %s: only default, host and none are there", o.network)
	}
	if req.AddHosts, err = extraHosts(hostList(o.addHosts)); err != nil {
		return err
	}
	return errors.Join(o.attrs(req.Attrs), o.limitFlags.attrs(req.Attrs))
}

// attrs sets the frontend's options about steps that have no field of their own.
func (o *buildFlags) attrs(attrs map[string]string) error {
	if o.shmSize != "" {
		n, err := units.RAMInBytes(o.shmSize)
		if err != nil {
			return fmt.Errorf("--shm-size: %w", err)
		}
		attrs["shm-size"] = strconv.FormatInt(n, 10)
	}
	if o.cgroupParent != "" {
		attrs["cgroup-parent"] = o.cgroupParent
	}
	var limits []string
	for _, v := range o.ulimits {
		u, err := units.ParseUlimit(v)
		if err != nil {
			return fmt.Errorf("--ulimit %s: %w", v, err)
		}
		limits = append(limits, u.String())
	}
	if len(limits) > 0 {
		attrs["ulimit"] = strings.Join(limits, ",")
	}
	return nil
}

// keyValues reads KEY=VALUE arguments. A KEY alone is looked up, and left out when that finds
// nothing; without lookup it has an empty value.
func keyValues(args []string, lookup func(string) (string, bool)) map[string]string {
	m := make(map[string]string, len(args))
	for _, arg := range args {
		k, v, ok := strings.Cut(arg, "=")
		if !ok && lookup != nil {
			if v, ok = lookup(k); !ok {
				continue
			}
		}
		m[k] = v
	}
	return m
}

// valueFlags are flags of NAME=VALUE whose values are nobody else's affair.
var valueFlags = []string{"--build-arg", "--set", "--var"}

// withoutValues is a command line without the values of build arguments, and of what stands for them in bake, and without the
// secrets of caches.
func withoutValues(args []string) []string {
	out := slices.Clone(args)
	for i, arg := range out {
		arg = cache.Redact(arg)
		out[i] = arg
		flag, value, joined := strings.Cut(arg, "=")
		if !joined || !slices.Contains(valueFlags, flag) {
			if i == 0 || !slices.Contains(valueFlags, args[i-1]) {
				continue
			}
			value = arg
		}
		if name, _, ok := strings.Cut(value, "="); ok {
			out[i] = strings.TrimSuffix(arg, value) + name + "=..."
		}
	}
	return out
}

func (a *app) runBuild(ctx context.Context, opts *buildFlags, contextArg string) error {
	heap.Populate(buildsHeap)
	endInTime(ctx)
	contextArg, err := a.bringPacked(ctx, opts, contextArg)
	if err != nil {
		return err
	}
	req, err := opts.request(a, contextArg)
	if err != nil {
		return err
	}
	req.Command = withoutValues(os.Args)
	a.willRead(&req)
	told := told{tellFlags: opts.tellFlags}
	told.of(&req)
	if opts.metadataFile != "" {
		req.TellProvenance = toldProvenance()
	}
	if opts.iidFile != "" { // an old one must not be taken for this build's
		if err := os.Remove(opts.iidFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("removing the old --iidfile: %w", err)
		}
	}
	keys, err := openKeyDump(opts.dumpKeys)
	if err != nil {
		return err
	}
	defer keys.Close()
	mode := opts.progress
	if opts.quiet {
		mode = "quiet"
	}
	a.tellIsolation(mode)
	display, err := a.display(ctx, mode)
	if err != nil {
		return err
	}
	b, err := a.Builder(keys.dump())
	if err != nil {
		display.Wait()
		return err
	}
	loader, err := opts.outputFlags.set(ctx, a, &req)
	if err != nil {
		display.Wait()
		return err
	}
	result, err := b.Build(ctx, req, display)
	warnings := display.Wait()
	err = loader.finish(err)
	if mode != "quiet" && mode != "none" && mode != "rawjson" {
		a.printWarnings(warnings) // also of a build that failed, for which they may be the reason
	}
	a.tellOutput(mode, err)
	serr := errors.Join(keys.Close(), told.summarize())
	if err := errors.Join(a.afterFailure(ctx, &opts.failureFlags, &told, a.again(), err), serr); err != nil {
		return err
	}
	a.tellTimes(mode, &told)
	a.offerWarm(mode, result)
	return errors.Join(a.finishBuild(opts, result, warnings), a.printVerified(result, opts.verifyCache, mode), a.printVerifiedWarm(result, opts.verifyWarm, mode))
}

// keyDump is the file of --dump-keys; nil without one.
type keyDump struct {
	mu   sync.Mutex
	file *os.File
	err  error
}

func openKeyDump(path string) (*keyDump, error) {
	if path == "" {
		return nil, nil
	}
	// Its lines have the values of arguments and of the environment.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening --dump-keys: %w", err)
	}
	return &keyDump{file: f}, nil
}

// dump returns what takes the keys, or nil. It may be called from several goroutines.
func (k *keyDump) dump() func(vertex string, lines []string) {
	if k == nil {
		return nil
	}
	return func(vertex string, lines []string) {
		k.mu.Lock()
		defer k.mu.Unlock()
		_, err := fmt.Fprintf(k.file, "%s\n\t%s\n", vertex, strings.Join(lines, "\n\t"))
		k.err = errors.Join(k.err, err)
	}
}

// Close returns what went wrong with writing. The second call does nothing.
func (k *keyDump) Close() error {
	if k == nil || k.file == nil {
		return nil
	}
	err := errors.Join(k.err, k.file.Close())
	k.file = nil
	if err != nil {
		return fmt.Errorf("writing --dump-keys: %w", err)
	}
	return nil
}

// finishBuild writes what the flags ask for besides the outputs.
func (a *app) finishBuild(opts *buildFlags, result *build.Result, warnings []client.VertexWarning) error {
	if opts.iidFile != "" {
		if err := os.WriteFile(opts.iidFile, []byte(result.ImageID), 0o644); err != nil {
			return fmt.Errorf("writing --iidfile: %w", err)
		}
	}
	if opts.metadataFile != "" {
		meta := a.metadata(result)
		if result.Answer == nil {
			addWarnings(meta, warnings)
		}
		if err := writeMetadata(opts.metadataFile, meta); err != nil {
			return err
		}
	}
	if result.Answer != nil {
		call, err := parseCall(opts.call)
		if err != nil {
			return err
		}
		return call.print(a.stdout, result.Answer)
	}
	if opts.quiet && result.ImageID != "" {
		_, err := fmt.Fprintln(a.stdout, result.ImageID)
		return err
	}
	return nil
}

// toldProvenance is how much of the provenance --metadata-file has, by buildx' variable.
func toldProvenance() build.ProvenanceMode {
	v := os.Getenv("BUILDX_METADATA_PROVENANCE")
	if on, err := strconv.ParseBool(v); v == "disabled" || err == nil && !on {
		return ""
	}
	if v == string(build.ProvenanceMax) {
		return build.ProvenanceMax
	}
	return build.ProvenanceMin
}

// addWarnings adds what a build was warned of, if buildx' variable asks for that.
func addWarnings(meta map[string]any, warnings []client.VertexWarning) {
	if on, err := strconv.ParseBool(os.Getenv("BUILDX_METADATA_WARNINGS")); err == nil && on && len(warnings) > 0 {
		meta["buildx.build.warnings"] = warnings
	}
}

// metadata is the result under the keys that buildx uses.
func (a *app) metadata(result *build.Result) map[string]any {
	meta := map[string]any{}
	for k, v := range result.Answer {
		if meta[k] = string(v); json.Valid(v) && k == "result.json" {
			meta[k] = json.RawMessage(v)
		}
	}
	if result.Answer == nil {
		meta["buildx.build.ref"] = a.buildRef(result.ID)
	}
	if result.ImageID != "" {
		if result.Config != "" {
			meta["containerimage.config.digest"] = result.Config
		}
		meta["containerimage.digest"] = result.Manifest.Digest
		meta["containerimage.descriptor"] = result.Manifest
	}
	for platform, provenance := range result.Provenance {
		key := "buildx.build.provenance"
		if platform != "" {
			key += "/" + platform
		}
		meta[key] = provenance
	}
	if result.Cache != nil {
		meta["cache.manifest"] = result.Cache
	}
	if len(result.Names) > 0 {
		meta["image.name"] = strings.Join(result.Names, ",")
	}
	return meta
}

func writeMetadata(path string, meta map[string]any) error {
	data, err := json.MarshalIndent(meta, "", "  ")
	if err == nil {
		err = os.WriteFile(path, data, 0o644)
	}
	if err != nil {
		return fmt.Errorf("writing --metadata-file: %w", err)
	}
	return nil
}

// printWarnings shows what the Dockerfile's linter found, in buildx's words.
func (a *app) printWarnings(warnings []client.VertexWarning) {
	if len(warnings) == 0 {
		return
	}
	head := "1 warning found"
	if len(warnings) > 1 {
		head = fmt.Sprintf("%d warnings found", len(warnings))
	}
	if !a.debug {
		head += fmt.Sprintf(" (use %s --debug to expand)", a.name)
	}
	if isTerminal(a.stderr) && os.Getenv("NO_COLOR") == "" {
		head = "\x1b[33m" + head + ":\x1b[0m"
	} else {
		head += ":"
	}
	fmt.Fprintf(raw(a.stderr), "\n %s\n", head)
	for _, w := range warnings {
		fmt.Fprintf(a.stderr, " - %s\n", w.Short)
		if !a.debug {
			continue
		}
		for _, d := range w.Detail {
			fmt.Fprintf(a.stderr, "%s\n", d)
		}
		if w.URL != "" {
			fmt.Fprintf(a.stderr, "More info: %s\n", w.URL)
		}
		if w.SourceInfo != nil && len(w.Range) > 0 {
			src := errdefs.Source{Info: w.SourceInfo, Ranges: w.Range}
			src.Print(a.stderr)
		}
		fmt.Fprintln(a.stderr)
	}
}
