package kube

import (
	"bytes"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Container is the container of the command in its pod.
const Container = "slipway"

// Dir is where the files of a command's Secret are in its pod.
const Dir = "/.slipway/job"

// registryDir is where docker's configuration of a Secret is.
const registryDir = "/.slipway/registry"

// StoreDir is where a volume for the store is.
const StoreDir = "/store"

//go:embed default.yaml
var defaultTemplate []byte

// Spec says what a Job is to carry out.
type Spec struct {
	// Template is a Job, a Pod or a PodTemplate in YAML or JSON, which is completed; nil: slipway's own.
	Template []byte
	// Overlay is laid over the template.
	Overlay Overlay
	// Image is what the pod runs, where the template names none.
	Image string
	// Args are those of the program slipway.
	Args []string
	// Env are variables of its environment.
	Env map[string]string
	// Files are the contents of a Secret, which the pod has in [Dir].
	Files map[string][]byte
	// RegistrySecret is a Secret of the namespace with docker's configuration, .dockerconfigjson, which the pod gets as its own; "" is none.
	RegistrySecret string
	// Arch is the architecture of the node, as Go calls it; "" is any.
	Arch string
	// NoUserNamespace leaves out the rights for which the node needs user namespaces of pods.
	NoUserNamespace bool
	// Patience is how long a pod is waited for; 0 is [DefaultPatience].
	Patience time.Duration
	// Shared says that whoever carries out the same Spec wants the same thing: one Job does it for all who come while it is there. Contents of Files are not
	// compared, as nobody may read them.
	Shared bool
}

// DefaultPatience is how long a pod is waited for that does not start.
const DefaultPatience = 10 * time.Minute

// Overlay is what is added to a template: to the metadata of its pod, to its spec, and to its container. Objects are merged, lists become longer.
type Overlay struct{ Metadata, Spec, Container map[string]any }

// NewOverlay is one that adds nothing.
func NewOverlay() Overlay { return Overlay{dict{}, dict{}, dict{}} }

func overlay(onto, over dict) {
	for name, value := range over {
		switch value := value.(type) {
		case dict:
			overlay(Child(onto, name), value)
		case []any:
			there, _ := onto[name].([]any)
			onto[name] = append(slices.Clone(there), value...)
		default:
			onto[name] = value
		}
	}
}

// dict is an object of which not all is known here.
type dict = map[string]any

// Child is an object in an object, which is made if it is not there.
func Child(of dict, names ...string) dict {
	for _, name := range names {
		next, ok := of[name].(dict)
		if !ok {
			next = dict{}
			of[name] = next
		}
		of = next
	}
	return of
}

// template is a Job that is completed.
type template struct {
	job       dict
	pod       dict // its pod's spec
	container dict
	own       bool // the template says itself which rights the pod has
}

// newTemplate reads a template and completes it, but for rights.
func newTemplate(s *Spec) (*template, error) {
	t := &template{job: dict{}}
	if err := fromYAML(defaultTemplate, &t.job); err != nil {
		return nil, err
	}
	if s.Template != nil {
		if err := t.read(s.Template); err != nil {
			return nil, fmt.Errorf("reading the pod's template: %w", err)
		}
	}
	t.pod = Child(t.job, "spec", "template", "spec")
	if err := t.findContainer(); err != nil {
		return nil, fmt.Errorf("reading the pod's template: %w", err)
	}
	overlay(Child(t.job, "spec", "template", "metadata"), s.Overlay.Metadata)
	overlay(t.pod, s.Overlay.Spec)
	overlay(t.container, s.Overlay.Container)
	_, rights := t.container["securityContext"]
	_, podRights := t.pod["securityContext"]
	_, users := t.pod["hostUsers"]
	t.own = rights || podRights || users
	if _, ok := t.pod["restartPolicy"]; !ok {
		t.pod["restartPolicy"] = "Never"
	}
	return t, t.complete(s)
}

// read takes a template in the place of slipway's own.
func (t *template) read(data []byte) error {
	given := dict{}
	if err := fromYAML(data, &given); err != nil {
		return err
	}
	if docs := bytes.Count(data, []byte("\n---")); docs > 0 {
		return errors.New("it has several documents: want one Job or one Pod")
	}
	switch kind, _ := given["kind"].(string); kind {
	case "Job":
		const ttl = "ttlSecondsAfterFinished"
		if spec := Child(given, "spec"); spec[ttl] == nil { // or a Job whose client is gone would have its name for ever
			spec[ttl] = Child(t.job, "spec")[ttl]
		}
		t.job = given
	case "Pod":
		into := Child(t.job, "spec", "template")
		into["spec"] = Child(given, "spec")
		into["metadata"] = withoutNames(Child(given, "metadata"))
	case "PodTemplate":
		Child(t.job, "spec")["template"] = Child(given, "template")
	default:
		return fmt.Errorf("kind %q: want a Job, a Pod or a PodTemplate", kind)
	}
	return nil
}

// withoutNames is metadata that can be that of any object.
func withoutNames(m dict) dict {
	return dict{"labels": Child(m, "labels"), "annotations": Child(m, "annotations")}
}

// findContainer finds the container of the command: that of its name, or the only one.
func (t *template) findContainer() error {
	all, _ := t.pod["containers"].([]any)
	for _, c := range all {
		c, ok := c.(dict)
		if !ok {
			return errors.New("a container is no object")
		}
		if c["name"] == Container {
			t.container = c
		}
	}
	switch {
	case t.container != nil:
	case len(all) == 1:
		t.container = all[0].(dict)
		t.container["name"] = Container
	case len(all) == 0:
		t.container = dict{"name": Container}
		t.pod["containers"] = []any{t.container}
	default:
		return fmt.Errorf("none of its containers is called %q", Container)
	}
	return nil
}

// complete adds what the command needs.
func (t *template) complete(s *Spec) error {
	if image, _ := t.container["image"].(string); s.Image != "" {
		t.container["image"] = s.Image
	} else if image == "" {
		return errors.New("no image: say by --on-image which image of slipway the pod runs (docs/ci.md)")
	}
	t.container["command"] = []any{"slipway"}
	args := make([]any, len(s.Args))
	for i, a := range s.Args {
		args[i] = Literal(a)
	}
	t.container["args"] = args
	for _, name := range slices.Sorted(maps.Keys(s.Env)) {
		t.setEnv(name, s.Env[name])
	}
	if len(s.Files) > 0 {
		t.mount(filesVolume, Dir, true)
	}
	if s.RegistrySecret != "" {
		t.mount("slipway-registry", registryDir, true)
		t.volume(dict{"name": "slipway-registry", "secret": dict{
			"secretName": s.RegistrySecret, "items": []any{dict{"key": ".dockerconfigjson", "path": "config.json"}},
		}})
		t.setEnv("DOCKER_CONFIG", registryDir)
	}
	if s.Arch != "" {
		if on := Child(t.pod, "nodeSelector"); on["kubernetes.io/arch"] == nil {
			on["kubernetes.io/arch"] = s.Arch
		}
	}
	return nil
}

// Literal is an argument, or a value, that Kubernetes does not put variables into.
func Literal(arg string) string {
	var b bytes.Buffer
	for i := range len(arg) {
		if arg[i] == '$' && i+1 < len(arg) && (arg[i+1] == '(' || arg[i+1] == '$') {
			b.WriteByte('$')
		}
		b.WriteByte(arg[i])
	}
	return b.String()
}

// setEnv sets a variable that the template does not.
func (t *template) setEnv(name, value string) {
	all, _ := t.container["env"].([]any)
	for _, e := range all {
		if e, ok := e.(dict); ok && e["name"] == name {
			return
		}
	}
	t.container["env"] = append(all, dict{"name": name, "value": Literal(value)})
}

// mount adds a volume's mount.
func (t *template) mount(name, path string, readOnly bool) {
	m := dict{"name": name, "mountPath": path}
	if readOnly {
		m["readOnly"] = true
	}
	all, _ := t.container["volumeMounts"].([]any)
	t.container["volumeMounts"] = append(slices.Clone(all), m)
}

func (t *template) volume(v dict) {
	all, _ := t.pod["volumes"].([]any)
	t.pod["volumes"] = append(slices.Clone(all), v)
}

// hasMount reports whether the template has a mount at a path.
func (t *template) hasMount(path string) bool {
	all, _ := t.container["volumeMounts"].([]any)
	return slices.ContainsFunc(all, func(m any) bool {
		m1, ok := m.(dict)
		return ok && m1["mountPath"] == path
	})
}

// filesVolume is the volume with the files of the command's Secret.
const filesVolume = "slipway-job"

// named gives the Job its name, and its maker's; secret is the name of its Secret, or "".
func (t *template) named(name, client, secret string) {
	t.rename(name)
	Child(t.job, "metadata", "annotations")[clientNote] = client
	if secret != "" {
		t.volume(dict{"name": filesVolume, "secret": dict{"secretName": secret, "defaultMode": 0o444}})
	}
}

// rename gives the Job another name, and everything labels by which it is found.
func (t *template) rename(name string) {
	metadata := Child(t.job, "metadata")
	delete(metadata, "namespace")
	delete(metadata, "generateName")
	metadata["name"] = name
	for _, m := range []dict{metadata, Child(t.job, "spec", "template", "metadata")} {
		labels := Child(m, "labels")
		labels["app.kubernetes.io/managed-by"] = "slipway"
		labels[label] = name
	}
}

// label has the name of a command's Job, at the Job and its pods.
const label = "slipway.build/job"

// newName is a name that no other Job has.
func newName() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // it does not fail
	return "slipway-" + hex.EncodeToString(b[:])
}
