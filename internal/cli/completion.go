package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/sys/capability"
	"github.com/spf13/cobra"

	"github.com/slipway-build/slipway/internal/bake"
	"github.com/slipway-build/slipway/internal/builders"
	"github.com/slipway-build/slipway/internal/container"
	"github.com/slipway-build/slipway/internal/store"
	"github.com/slipway-build/slipway/internal/terminal"
	"github.com/slipway-build/slipway/internal/view"
)

// completionStore opens the store to look names up, if there is one: pressing TAB makes no directories.
func (a *app) completionStore() *store.Store {
	dir, err := a.storeRoot()
	if err != nil {
		return nil
	}
	if _, err := os.Stat(filepath.Join(dir, "meta.db")); err != nil {
		return nil
	}
	s, err := a.Store()
	if err != nil {
		return nil
	}
	return s
}

// completeContainers completes names of containers, those that keep lets through; nil keeps all.
// IDs are completed once their first digits are there.
func (a *app) completeContainers(keep func(container.State) bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return a.containerNames(cmd, args, toComplete, keep), cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) containerNames(cmd *cobra.Command, args []string, toComplete string, keep func(container.State) bool) []cobra.Completion {
	s := a.completionStore()
	if s == nil {
		return nil
	}
	all, err := s.Containers(cmd.Context())
	if err != nil {
		return nil
	}
	m := container.Manager{Store: s}
	var out []cobra.Completion
	for _, c := range all {
		if slices.Contains(args, c.Name) || keep != nil && !keep(m.State(c.ID)) {
			continue
		}
		out = append(out, c.Name)
		if toComplete != "" && strings.HasPrefix(c.ID, toComplete) {
			out = append(out, c.ID)
		}
	}
	return out
}

// completeSteps completes names of failed steps, and leaves the command to the shell.
func (a *app) completeSteps(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	s := a.completionStore()
	if s == nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	m := container.Manager{Store: s}
	steps, _ := m.Steps(cmd.Context())
	var out []cobra.Completion
	for _, c := range steps {
		out = append(out, cobra.CompletionWithDesc(c.Name, terminal.Line(container.StepOf(c).Name)))
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completeImages completes names of images, for the first n arguments; a negative n is all of them.
func (a *app) completeImages(n int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if n >= 0 && len(args) >= n {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.imageNames(cmd, args, toComplete), cobra.ShellCompDirectiveNoFileComp
	}
}

// imageNames are the names of images, with their tag and, where that is latest, also without; and
// IDs, once their first digits are there.
func (a *app) imageNames(cmd *cobra.Command, args []string, toComplete string) []cobra.Completion {
	s := a.completionStore()
	if s == nil {
		return nil
	}
	all, err := s.Images(cmd.Context())
	if err != nil {
		return nil
	}
	var out []cobra.Completion
	add := func(name string) {
		if !slices.Contains(args, name) && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	for _, img := range all {
		if id := img.ID.Encoded(); toComplete != "" && strings.HasPrefix(id, toComplete) {
			add(id)
		}
		if !img.Tagged() {
			continue
		}
		if img.Pinned() {
			add(view.Familiar(img.Name))
			continue
		}
		repo, tag := store.FamiliarName(img.Name)
		add(repo + ":" + tag)
		if tag == "latest" {
			add(repo)
		}
	}
	return out
}

// completeObjects completes names of containers and of images.
func (a *app) completeObjects(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return append(a.containerNames(cmd, args, toComplete, nil), a.imageNames(cmd, args, toComplete)...), cobra.ShellCompDirectiveNoFileComp
}

// completeBuilders completes names of builders.
func (a *app) completeBuilders(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	l, _ := a.builderList()
	names := []cobra.Completion{builders.Default}
	for _, b := range l.Builders {
		if !slices.Contains(args, b.Name) {
			names = append(names, b.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeRun completes the image, and leaves what follows it to the shell.
func (a *app) completeRun(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.imageNames(cmd, args, toComplete), cobra.ShellCompDirectiveNoFileComp
}

// completeCopy completes CONTAINER: of cp, and the host's paths.
func (a *app) completeCopy(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 1 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if strings.Contains(toComplete, ":") || strings.HasPrefix(toComplete, ".") || strings.HasPrefix(toComplete, "/") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var out []cobra.Completion
	for _, name := range a.containerNames(cmd, nil, toComplete, nil) {
		if strings.HasPrefix(name, toComplete) {
			out = append(out, name+":")
		}
	}
	if len(out) == 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return out, cobra.ShellCompDirectiveNoSpace
}

// completeDirs completes the one argument of a build, a directory.
func completeDirs(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// completeStages completes the names of the stages of the Dockerfile that a build would read.
func completeStages(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	dir := "."
	if len(args) > 0 {
		dir = args[0]
	}
	file, _ := cmd.Flags().GetString("file")
	if file == "" {
		file = filepath.Join(dir, "Dockerfile")
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	dockerfile, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	stages, _, err := instructions.Parse(dockerfile.AST, nil)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []cobra.Completion
	for _, s := range stages {
		if s.Name != "" {
			out = append(out, cobra.CompletionWithDesc(s.Name, "FROM "+s.BaseName))
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// platformNames are those that Docker's completion offers (docker/cli, cli/command/completion).
var platformNames = []cobra.Completion{
	"linux/386", "linux/amd64", "linux/arm", "linux/arm/v5", "linux/arm/v6", "linux/arm/v7", "linux/arm64", "linux/arm64/v8",
	"linux/loong64", "linux/mips", "linux/mips64", "linux/mips64le", "linux/ppc64le", "linux/riscv64", "linux/s390x",
}

// capabilityNames are the values of --cap-add and --cap-drop.
func capabilityNames() []cobra.Completion {
	names := []cobra.Completion{"ALL"}
	for _, c := range capability.ListKnown() {
		names = append(names, "CAP_"+strings.ToUpper(c.String()))
	}
	return names
}

// flagValues are the values of flags that mean the same in every command.
func flagValues() map[string][]cobra.Completion {
	return map[string][]cobra.Completion{
		"on-failure": {"none", "keep", "shell"},
		"progress":   {"auto", "plain", "tty", "quiet", "rawjson", "none"},
		"network":    {"default", "host", "none"},
		"platform":   platformNames,
		"userns":     {"host", "auto"},
		"pull":       {"always", "missing", "never"},
		"format":     {"json", "table"},
		"call":       {"build", "check", "outline", "targets"},
		"type":       {"container", "image"},
		"allow":      {"network.host", "security.insecure"},
		"provenance": {"true", "false", "mode=min", "mode=max"},
		"sbom":       {"true", "false"},
		"signal":     {"SIGHUP", "SIGINT", "SIGKILL", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2"},
		"cap-add":    capabilityNames(),
		"cap-drop":   capabilityNames(),
	}
}

// beginnings are of values of build's flags, of which there is more to come.
func beginnings() map[string][]cobra.Completion {
	return map[string][]cobra.Completion{
		"output": {
			"type=cacheonly", "type=docker", "type=docker,dest=", "type=image", "type=local,dest=", "type=oci,dest=", "type=registry", "type=tar,dest=",
		},
		"attest":        {"type=provenance,mode=max", "type=provenance,mode=min", "type=sbom"},
		"cache-from":    {"type=registry,ref=", "type=local,src="},
		"cache-to":      {"type=inline", "type=local,dest=", "type=registry,ref="},
		"secret":        {"id="},
		"ssh":           {"default"},
		"build-context": nil,
	}
}

// freeValues are flags whose value nobody can guess, and is no file.
var freeValues = []string{
	"add-host", "annotation", "author", "build-arg", "cgroup-parent", "change", "cpus", "entrypoint", "env", "filter",
	"hostname", "label", "memory", "message", "name", "password", "shm-size", "stop-timeout", "tag", "timeout", "tmpfs", "ulimit",
	"user", "username", "workdir",
	"arch", "os", "os-features", "os-version", "variant", "max-size", "max-wasted", "top",
}

// arguments are how the arguments of commands are completed, by their path below the program's
// name. Other commands complete files.
func (a *app) arguments() map[string]cobra.CompletionFunc {
	stopped := func(s container.State) bool { return !s.Running }
	running := func(s container.State) bool { return s.Running }
	all := map[string]cobra.CompletionFunc{
		"images": a.completeImages(1), "image ls": a.completeImages(1),
		"rmi": a.completeImages(-1), "image rm": a.completeImages(-1),
		"image inspect": a.completeImages(-1), "image history": a.completeImages(1), "history": a.completeImages(1),
		"image size": a.completeImages(1), "image diff": a.completeImages(2), "advise": completeDirs,
		"tag": a.completeImages(1), "image tag": a.completeImages(1),
		"push": a.completeImages(1), "image push": a.completeImages(1), "pull": a.completeImages(1), "image pull": a.completeImages(1),
		"save": a.completeImages(-1), "image save": a.completeImages(-1),
		"inspect": a.completeObjects, "debug": a.completeSteps, "bake": completeTargets, "buildx bake": completeTargets,
		"build": completeDirs, "image build": completeDirs, "buildx build": completeDirs,
	}
	for name, fn := range map[string]cobra.CompletionFunc{
		"create": a.completeRun, "run": a.completeRun, "cp": a.completeCopy,
		"rm": a.completeContainers(nil), "start": a.completeContainers(stopped),
		"stop": a.completeContainers(running), "kill": a.completeContainers(running), "wait": a.completeContainers(nil),
		"export": a.completeContainers(nil), "commit": a.completeContainers(nil), "diff": a.completeContainers(nil),
		"rename": a.completeContainers(nil),
	} {
		all[name], all["container "+name] = fn, fn
	}
	all["container inspect"] = a.completeContainers(nil)
	for _, name := range []string{"inspect", "rm", "stop", "use"} {
		all["buildx "+name] = a.completeBuilders
	}
	for _, name := range []string{"ps", "container ls", "container prune", "image prune", "buildx create", "buildx du", "buildx ls", "buildx prune", "buildx version", "buildx history ls", "history ls", "context ls", "context show", "context create", "system check", "system df", "system prune", "system reset", "info", "version", "load", "image load", "login", "logout"} {
		all[name] = cobra.NoFileCompletions
	}
	all["cache prune"] = completeDirs
	for _, name := range []string{"manifest annotate", "manifest create", "manifest inspect", "manifest push", "manifest rm", "imagetools create", "imagetools inspect", "buildx imagetools create", "buildx imagetools inspect"} {
		all[name] = cobra.NoFileCompletions // what registries have nobody is asked for
	}
	return all
}

// completeTargets completes the names of a bake definition's targets and groups.
func completeTargets(cmd *cobra.Command, args []string, toComplete string) ([]cobra.Completion, cobra.ShellCompDirective) {
	files, err := cmd.Flags().GetStringArray("file")
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []cobra.Completion
	for _, name := range bake.Names(files) {
		if !slices.Contains(args, name) {
			out = append(out, name)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// registerCompletions makes the commands complete names and values. It is only called to complete.
func (a *app) registerCompletions(root *cobra.Command) {
	arguments, values := a.arguments(), flagValues()
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		path := strings.TrimPrefix(strings.TrimPrefix(cmd.CommandPath(), root.Name()), " ")
		if fn, ok := arguments[path]; ok && cmd.ValidArgsFunction == nil {
			cmd.ValidArgsFunction = fn
		}
		register := func(name string, fn cobra.CompletionFunc) {
			if f := cmd.Flags().Lookup(name); f != nil && f.Value.Type() != "bool" {
				cmd.RegisterFlagCompletionFunc(name, fn) // an error means that the command has its own
			}
		}
		for name, list := range values {
			register(name, cobra.FixedCompletions(list, cobra.ShellCompDirectiveNoFileComp))
		}
		for _, name := range freeValues {
			register(name, cobra.NoFileCompletions)
		}
		register("target", completeStages)
		if cmd.Name() == "build" {
			for name, list := range beginnings() {
				register(name, cobra.FixedCompletions(list, cobra.ShellCompDirectiveNoSpace))
			}
		}
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(root)
}
