package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/slipway-build/slipway/internal/build"
	"github.com/slipway-build/slipway/internal/cache"
	"github.com/slipway-build/slipway/internal/progress"
	"github.com/slipway-build/slipway/internal/sandbox"
)

// executorName is kaniko's program, by whose name this one takes kaniko's command line: a pipeline changes the name of an image.
const executorName = "executor"

// kanikoRelease is the release of kaniko whose command line that is.
const kanikoRelease = "v1.24.0"

// kanikoConfig is where kaniko's image has docker's config.json.
const kanikoConfig = "/kaniko/.docker"

// newExecutor is kaniko's program.
func newExecutor(a *app) *cobra.Command {
	cmd := newExecutorCmd(a)
	cmd.SilenceUsage, cmd.SilenceErrors, cmd.TraverseChildren = true, true, true
	cmd.SetFlagErrorFunc(wrongFlag)
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.AddCommand(newLoginCmd(a), newExecutorPush(a), &cobra.Command{
		Use: "version", Short: "Print the version", Args: exactArgs(0),
		Annotations: map[string]string{printsOnly: "true"},
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(a.stdout, "Kaniko version :  %s slipway-%s\n", kanikoRelease, version())
			return err
		},
	})
	addRefused(cmd, map[string]string{
		"bake": "the bake files of kaniko's successor are not read: name the stage with --target",
	})
	a.sharedFlags(cmd.PersistentFlags())
	templateFuncs()
	cmd.SetHelpTemplate(helpTemplate)
	cmd.SetUsageTemplate(usageTemplate)
	cmd.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if cmd.Annotations[printsOnly] != "" {
			return nil
		}
		return a.begin(cmd)
	}
	return cmd
}

// newExecutorCmd is kaniko's program as a command.
func newExecutorCmd(a *app) *cobra.Command {
	var opts executorFlags
	cmd := &cobra.Command{
		Use:   executorName + " [OPTIONS]",
		Short: "Build and push an image, with the command line of kaniko's executor",
		Long: `Build and push an image, with the command line of kaniko's executor: docs/ci.md has what becomes of each flag.

A program that is called "executor", through a link, takes the same command line.`,
		Args: exactArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.execKaniko(cmd, &opts) },
	}
	if !a.calls(cmd) && a.name != executorName {
		return cmd
	}
	opts.add(cmd.Flags())
	return cmd
}

// execKaniko carries kaniko's command line out.
func (a *app) execKaniko(cmd *cobra.Command, o *executorFlags) error {
	ctx := cmd.Context()
	endInTime(ctx)
	mode, err := o.progressMode()
	if err != nil {
		return err
	}
	if o.debugs() {
		a.debug = true
	}
	o.noCache = changed(cmd.Flags(), "cache") && !o.cache
	if err := o.complete(os.LookupEnv); err != nil {
		return err
	}
	o.tell(a, cmd.Flags())
	a.tellIsolation(mode)
	where, err := o.source(a)
	if err != nil {
		return err
	}
	defer where.close()
	if err := a.useKanikosRegistries(o); err != nil {
		return err
	}
	req, err := o.request(a, where)
	if err != nil {
		return err
	}
	told := told{tellFlags: o.tellFlags}
	told.of(&req)
	result, err := a.buildForKaniko(ctx, o, req, mode)
	if err := errors.Join(err, told.summarize()); err != nil {
		return exitAsStep(err)
	}
	a.tellTimes(mode, &told)
	return o.report(ctx, result.Manifest.Digest)
}

// exitAsStep gives an error the exit code of the step that failed, as kaniko does.
func exitAsStep(err error) error {
	var step *sandbox.ExitError
	if errors.As(err, &step) && step.Code > 0 {
		return &codeError{code: step.Code, err: err}
	}
	return err
}

// buildForKaniko builds. A tag that the registry does not let anybody change is no error when that was said; the result is then the one
// that would have been pushed.
func (a *app) buildForKaniko(ctx context.Context, o *executorFlags, req build.Request, mode string) (*build.Result, error) {
	result, err := a.buildOnce(ctx, req, mode)
	if !o.immutable || !isImmutableTag(err) {
		return result, err
	}
	local := slices.DeleteFunc(slices.Clone(req.Outputs), func(out build.Output) bool { return out.Attrs["push"] == "true" })
	for _, tag := range req.Tags {
		one := req
		one.Tags, one.Outputs = []string{tag}, []build.Output{o.pushed()}
		_, err := a.buildOnce(ctx, one, mode)
		if !isImmutableTag(err) && err != nil {
			return nil, err
		}
		if err != nil {
			fmt.Fprintf(a.stderr, "WARNING: %s was not pushed: its registry lets nobody change it\n", tag)
		}
	}
	req.Outputs = append(local, o.unpushed())
	return a.buildOnce(ctx, req, mode)
}

func (a *app) buildOnce(ctx context.Context, req build.Request, mode string) (*build.Result, error) {
	display, err := a.display(ctx, mode)
	if err != nil {
		return nil, err
	}
	b, err := a.Builder(nil)
	if err != nil {
		display.Wait()
		return nil, err
	}
	return a.shown(ctx, b, req, display, mode)
}

// shown builds, and shows what the Dockerfile's linter found.
func (a *app) shown(ctx context.Context, b *build.Builder, req build.Request, display *progress.Display, mode string) (*build.Result, error) {
	result, err := b.Build(ctx, req, display)
	warnings := display.Wait()
	if mode != "quiet" && mode != "rawjson" {
		a.printWarnings(warnings)
	}
	return result, err
}

// immutableTags is what registries say then: Google's and Amazon's, whose words kaniko knows.
var immutableTags = []string{"The repository has enabled tag immutability", "cannot be overwritten because the repository is immutable"}

func isImmutableTag(err error) bool {
	return err != nil && slices.ContainsFunc(immutableTags, func(words string) bool { return strings.Contains(err.Error(), words) })
}

// request is what is built, through the flags of the build command. Registries are asked for base images even where the store has them, as kaniko,
// which keeps none, asks.
func (o *executorFlags) request(a *app, where *executorSource) (build.Request, error) {
	b := buildFlags{
		tags: o.destinations, file: where.dockerfile, target: o.target(), labels: o.labels, network: "default",
		noCache: o.noCache, pull: true, secretFlags: secretFlags{secrets: o.secrets},
	}
	for _, arg := range o.buildArgs { // kaniko gives an argument that the environment does not have an empty value
		if !strings.Contains(arg, "=") {
			arg += "=" + os.Getenv(arg)
		}
		b.buildArgs = append(b.buildArgs, arg)
	}
	if key := emptyKey(b.buildArgs); key != "" {
		return build.Request{}, fmt.Errorf("--build-arg: invalid key-value pair %q: empty key", key)
	}
	req, err := b.request(a, where.context)
	if err != nil {
		return req, err
	}
	req.Command = withoutValues(os.Args)
	a.willRead(&req)
	if where.stdin != nil {
		req.Stdin = where.stdin
	}
	maps.Copy(req.Attrs, where.attrs)
	req.Secrets = append(req.Secrets, where.secrets...)
	req.CacheFrom, req.CacheTo = o.caches()
	req.Outputs = o.outputs()
	if o.platform != "" {
		b.platforms = []string{o.platform}
	}
	b.annotations = o.annotations
	_, err = b.outputFlags.set(context.Background(), a, &req)
	return req, err
}

// outputs are where the image goes: files before registries, as kaniko has it.
func (o *executorFlags) outputs() (all []build.Output) {
	if o.tarPath != "" {
		out := build.Output{Type: build.OutputDocker, Dest: o.tarPath, Attrs: o.imageAttrs()}
		if len(o.destinations) == 0 {
			out.Attrs["name"] = "unset-repo/unset-image-name" // kaniko's word for it
		}
		all = append(all, out)
	}
	if o.layoutPath != "" {
		out := build.Output{Type: build.OutputOCI, Dest: o.layoutPath, Attrs: o.imageAttrs()}
		out.Attrs["tar"] = "false"
		all = append(all, out)
	}
	switch {
	case !o.noPush:
		all = append(all, o.pushed())
	case len(all) == 0:
		all = append(all, o.unpushed())
	}
	return all
}

// pushed is an image that goes to its registries and is kept nowhere else; unpushed one of which the digest alone is wanted.
func (o *executorFlags) pushed() build.Output {
	out := o.unpushed()
	out.Attrs["push"] = "true"
	return out
}

func (o *executorFlags) unpushed() build.Output {
	out := build.Output{Type: build.OutputImage, Attrs: o.imageAttrs()}
	out.Attrs["store"] = "false"
	return out
}

// imageAttrs are what is the same of all outputs, so that they have one digest.
func (o *executorFlags) imageAttrs() map[string]string {
	attrs := map[string]string{"compression": "gzip"}
	if o.compression != "" {
		attrs["compression"] = o.compression
	}
	if o.level > 0 {
		attrs["compression-level"] = fmt.Sprint(o.level)
	}
	if o.format == "docker" {
		attrs["oci-mediatypes"] = "false"
	}
	if o.reproducible {
		attrs["source-date-epoch"], attrs["rewrite-timestamp"] = "0", "true"
	}
	return attrs
}

// caches are those of --cache: everything in them comes from and goes to one place.
func (o *executorFlags) caches() (from, to []cache.Entry) {
	if !o.cache {
		return nil, nil
	}
	repo := o.cacheRepo
	if repo == "" {
		repo = o.inferredCache()
	}
	if repo == "" { // with --no-push and --no-push-cache
		return nil, nil
	}
	source, dest := cache.Entry{Attrs: map[string]string{}}, cache.Entry{Attrs: map[string]string{"mode": "max", "ignore-error": "true"}}
	if dir, ok := strings.CutPrefix(repo, "oci:"); ok {
		source.Type, dest.Type = cache.TypeLocal, cache.TypeLocal
		source.Attrs["src"], dest.Attrs["dest"] = dir, dir
		source.Attrs["tag"], dest.Attrs["tag"] = o.cacheTag(), o.cacheTag()
	} else {
		if !hasTag(repo) {
			repo += ":" + o.cacheTag()
		}
		source.Type, dest.Type = cache.TypeRegistry, cache.TypeRegistry
		source.Attrs["ref"], dest.Attrs["ref"] = repo, repo
	}
	from = []cache.Entry{source}
	if !o.noPushCache {
		to = []cache.Entry{dest}
	}
	return from, to
}

func hasTag(repo string) bool {
	return strings.Contains(repo[strings.LastIndex(repo, "/")+1:], ":")
}

// inferredCache is kaniko's place for the cache of what is pushed.
func (o *executorFlags) inferredCache() string {
	for _, d := range o.destinations {
		if ref, err := reference.ParseNormalizedNamed(d); err == nil {
			return reference.TrimNamed(ref).Name() + "/cache"
		}
	}
	return ""
}

// progressMode is how the build is shown. Kaniko's words are logrus'.
func (o *executorFlags) progressMode() (string, error) {
	level, err := logrus.ParseLevel(o.verbosity)
	if err != nil {
		return "", fmt.Errorf("parsing log level: %w", err)
	}
	switch o.logFormat {
	case "text", "color", "json":
	default:
		return "", fmt.Errorf("not a valid log format: %q. Please specify one of (text, color, json)", o.logFormat)
	}
	switch {
	case level < logrus.InfoLevel:
		return "quiet", nil
	case o.logFormat == "json":
		return "rawjson", nil
	case o.logFormat == "text" || level > logrus.InfoLevel:
		return "plain", nil
	}
	return "auto", nil
}

func (o *executorFlags) debugs() bool {
	level, err := logrus.ParseLevel(o.verbosity)
	return err == nil && level > logrus.InfoLevel
}

// tell says of flags that were given what they do not do here: of those that change nothing that a build gives at debug level.
func (o *executorFlags) tell(a *app, flags *pflag.FlagSet) {
	if level, err := logrus.ParseLevel(o.verbosity); err != nil || level < logrus.WarnLevel || o.logFormat == "json" {
		return
	}
	flags.Visit(func(f *pflag.Flag) {
		accepted, ok := kanikoAccepted()[f.Name]
		switch {
		case !ok || f.Value.String() == f.DefValue:
		case accepted.matters:
			fmt.Fprintf(a.stderr, "WARNING: --%s has no effect: %s\n", f.Name, accepted.reason)
		case o.debugs():
			fmt.Fprintf(a.stderr, "DEBUG: --%s has no effect: %s\n", f.Name, accepted.reason)
		}
	})
}

// useKanikosRegistries takes what was said of registries for the build, and finds credentials where kaniko does.
func (a *app) useKanikosRegistries(o *executorFlags) error {
	if os.Getenv("DOCKER_CONFIG") == "" {
		if _, err := os.Stat(filepath.Join(kanikoConfig, "config.json")); err == nil {
			dockerconfig.SetDir(kanikoConfig)
		}
	}
	a.registries = o.registries.options()
	a.registries.Otherwise = o.credentials()
	files, err := registryFiles(o.registries.tables(o.pushHosts()))
	if err != nil || len(files) == 0 {
		return err
	}
	s, err := a.Store()
	if err != nil {
		return err
	}
	dir, err := s.TempDir()
	if err != nil {
		return err
	}
	a.builderCerts = dir
	return writeRegistryFiles(dir, files)
}

// pushHosts are the registries that something is pushed to.
func (o *executorFlags) pushHosts() (hosts []string) {
	names := slices.Clone(o.destinations)
	if o.noPush {
		names = nil
	}
	if o.cache && o.cacheRepo != "" && !strings.HasPrefix(o.cacheRepo, "oci:") {
		names = append(names, o.cacheRepo)
	}
	for _, n := range names {
		if ref, err := reference.ParseNormalizedNamed(n); err == nil {
			hosts = append(hosts, reference.Domain(ref))
		}
	}
	return hosts
}
