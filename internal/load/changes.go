package load

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

// changeable are the instructions that --change of import and commit takes, as Docker's engine has them.
var changeable = []string{"cmd", "entrypoint", "healthcheck", "env", "expose", "label", "onbuild", "stopsignal", "user", "volume", "workdir"}

// ParseChanges makes an image's config of Dockerfile instructions.
func ParseChanges(changes []string) (dockerspec.DockerOCIImageConfig, error) {
	return ApplyChanges(dockerspec.DockerOCIImageConfig{}, changes)
}

// ApplyChanges changes an image's config by Dockerfile instructions. As in a Dockerfile, an ENTRYPOINT drops
// a CMD that none of them set.
func ApplyChanges(config dockerspec.DockerOCIImageConfig, changes []string) (dockerspec.DockerOCIImageConfig, error) {
	cmdSet := false
	for _, change := range changes {
		if strings.TrimSpace(change) == "" {
			continue
		}
		file, err := parser.Parse(strings.NewReader(change))
		if err != nil {
			return config, fmt.Errorf("parsing change %q: %w", change, err)
		}
		for _, node := range file.AST.Children {
			if !slices.Contains(changeable, strings.ToLower(node.Value)) {
				return config, fmt.Errorf("%s is not a valid change command", node.Value)
			}
			instruction, err := instructions.ParseInstruction(node)
			if err != nil {
				return config, fmt.Errorf("parsing change %q: %w", change, err)
			}
			if err := apply(&config, instruction, file.EscapeToken); err != nil {
				return config, fmt.Errorf("applying change %q: %w", change, err)
			}
			switch instruction.(type) {
			case *instructions.CmdCommand:
				cmdSet = true
			case *instructions.EntrypointCommand:
				if !cmdSet {
					config.Cmd = nil
				}
			}
		}
	}
	return config, nil
}

// apply carries out one instruction. Variables are those that ENV set before.
func apply(config *dockerspec.DockerOCIImageConfig, instruction any, escape rune) error {
	lex := shell.NewLex(escape)
	env := shell.EnvsFromSlice(config.Env)
	if e, ok := instruction.(instructions.SupportsSingleWordExpansion); ok {
		err := e.Expand(func(word string) (string, error) {
			out, _, err := lex.ProcessWord(word, env)
			return out, err
		})
		if err != nil {
			return err
		}
	}
	switch c := instruction.(type) {
	case *instructions.CmdCommand:
		config.Cmd = commandLine(c.ShellDependantCmdLine)
	case *instructions.EntrypointCommand:
		config.Entrypoint = commandLine(c.ShellDependantCmdLine)
	case *instructions.HealthCheckCommand:
		config.Healthcheck = c.Health
	case *instructions.EnvCommand:
		for _, kv := range c.Env {
			config.Env = setEnv(config.Env, kv.Key, kv.Value)
		}
	case *instructions.ExposeCommand:
		return expose(config, c, lex, env)
	case *instructions.LabelCommand:
		for _, kv := range c.Labels {
			put(&config.Labels, kv.Key, kv.Value)
		}
	case *instructions.OnbuildCommand:
		config.OnBuild = append(config.OnBuild, c.Expression)
	case *instructions.StopSignalCommand:
		config.StopSignal = c.Signal
	case *instructions.UserCommand:
		config.User = c.User
	case *instructions.VolumeCommand:
		for _, v := range c.Volumes {
			put(&config.Volumes, v, struct{}{})
		}
	case *instructions.WorkdirCommand:
		config.WorkingDir = workdir(config.WorkingDir, c.Path)
	}
	return nil
}

// commandLine runs what is no list by a shell.
func commandLine(c instructions.ShellDependantCmdLine) []string {
	if c.PrependShell {
		return append([]string{"/bin/sh", "-c"}, c.CmdLine...)
	}
	return c.CmdLine
}

func setEnv(env []string, key, value string) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(kv string) bool { return strings.HasPrefix(kv, key+"=") })
	return append(env, key+"="+value)
}

func put[V any](m *map[string]V, key string, value V) {
	if *m == nil {
		*m = map[string]V{}
	}
	(*m)[key] = value
}

func workdir(now, to string) string {
	if path.IsAbs(to) {
		return path.Clean(to)
	}
	return path.Join("/", now, to)
}

// expose adds ports, of which each may be a range; without a protocol it is tcp.
func expose(config *dockerspec.DockerOCIImageConfig, c *instructions.ExposeCommand, lex *shell.Lex, env shell.EnvGetter) error {
	for _, p := range c.Ports {
		words, err := lex.ProcessWords(p, env)
		if err != nil {
			return err
		}
		for _, word := range words {
			ports, err := parsePorts(word)
			if err != nil {
				return err
			}
			if config.ExposedPorts == nil {
				config.ExposedPorts = map[string]struct{}{}
			}
			maps.Copy(config.ExposedPorts, ports)
		}
	}
	return nil
}

// parsePorts reads "80", "80/udp" or "8000-8010/tcp" as the ports that an image's config lists.
func parsePorts(spec string) (map[string]struct{}, error) {
	ports, protocol, _ := strings.Cut(spec, "/")
	protocol = strings.ToLower(protocol)
	switch protocol {
	case "":
		protocol = "tcp"
	case "tcp", "udp", "sctp":
	default:
		return nil, fmt.Errorf("invalid protocol of port %q", spec)
	}
	from, to, isRange := strings.Cut(ports, "-")
	if !isRange {
		to = from
	}
	first, err1 := strconv.ParseUint(from, 10, 16)
	last, err2 := strconv.ParseUint(to, 10, 16)
	if err1 != nil || err2 != nil || first > last {
		return nil, fmt.Errorf("invalid containerPort: %s", ports)
	}
	all := map[string]struct{}{}
	for p := first; p <= last; p++ {
		all[fmt.Sprintf("%d/%s", p, protocol)] = struct{}{}
	}
	return all, nil
}
