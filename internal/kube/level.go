package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// level are rights that a pod may have, from the best ones down: docs/unprivileged.md says what steps get by each of them.
type level struct {
	name, tells string
	set         func(t *template)
	// isolated: what steps change needs a volume, or memory.
	isolated bool
	// holds reports whether a pod that the server would make has these rights; nil: any.
	holds func(*pod) bool
}

// give is a template with these rights.
func (l *level) give(t *template) *template {
	one := t.clone()
	l.set(one)
	if l.isolated && !one.hasMount(StoreDir) {
		one.mount("slipway-store", StoreDir, false)
		one.volume(dict{"name": "slipway-store", "emptyDir": dict{}})
		one.setEnv("SLIPWAY_ROOT", StoreDir+"/slipway")
	}
	return one
}

const inPlaceTells = "steps run in place, not isolated from the builder"

// levels are those that are tried, in their order.
func levels() []level {
	no := false
	return []level{
		{
			name: "user namespace of the pod (hostUsers: false, SYS_ADMIN)", tells: "steps are isolated, and root in them is nobody on the node", isolated: true,
			set: func(t *template) {
				t.pod["hostUsers"] = no
				t.container["securityContext"] = dict{"capabilities": dict{"add": []any{"SYS_ADMIN"}}, "seccompProfile": dict{"type": "RuntimeDefault"}}
			},
			// A server that does not know the field drops it, and SYS_ADMIN would be the node's.
			holds: func(p *pod) bool { return p.Spec.HostUsers != nil && !*p.Spec.HostUsers },
		},
		{
			name: "no seccomp profile (Unconfined)", tells: "steps are isolated in a user namespace of slipway's", isolated: true,
			set: func(t *template) {
				t.container["securityContext"] = dict{"seccompProfile": dict{"type": "Unconfined"}, "appArmorProfile": dict{"type": "Unconfined"}}
			},
		},
		{
			name: "baseline (RuntimeDefault)", tells: inPlaceTells,
			set: func(t *template) {
				t.container["securityContext"] = dict{"seccompProfile": dict{"type": "RuntimeDefault"}}
			},
		},
		{name: "restricted (user 1000)", tells: inPlaceTells, set: func(t *template) { t.container["securityContext"] = restricted(1000) }},
		{name: "restricted (a user of the namespace)", tells: inPlaceTells, set: func(t *template) { t.container["securityContext"] = restricted(0) }},
	}
}

// restricted are the rights of the level of that name; user 0 is one that the namespace gives, as OpenShift does.
func restricted(user int) dict {
	rights := dict{
		"runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": dict{"drop": []any{"ALL"}}, "seccompProfile": dict{"type": "RuntimeDefault"},
	}
	if user != 0 {
		rights["runAsUser"] = user
	}
	return rights
}

// clone is a copy of a template that is changed by itself.
func (t *template) clone() *template {
	c := &template{job: copied(t.job), own: t.own}
	c.pod = Child(c.job, "spec", "template", "spec")
	_ = c.findContainer() // which was found before
	return c
}

// copied is a copy of an object, and of all that is in it.
func copied(of dict) (c dict) {
	data, err := json.Marshal(of)
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil { // it came from JSON
		panic(err)
	}
	return c
}

// Admitted is the Job in the best level that the namespace's policy admits.
type Admitted struct {
	template *template
	// Tells is a line about it: the level, what it means, and why there is no better one.
	Tells string
}

// Admit asks the API server which rights a pod of a Job may have, by trial runs of the pod that leave nothing. Where the template says it, that is what is asked.
// What was admitted once is not asked again of another command.
func (c *Cluster) Admit(ctx context.Context, s *Spec) (*Admitted, error) {
	t, err := newTemplate(s)
	if err != nil {
		return nil, err
	}
	like, err := s.like()
	if err != nil {
		return nil, err
	}
	if found, ok := c.rights.Load(like); ok {
		return found.(rights)(t), nil
	}
	found, err := c.findRights(ctx, t, s)
	if err != nil {
		return nil, err
	}
	c.rights.Store(like, found)
	return found(t), nil
}

// like is the same for all commands whose pods differ in nothing that has to do with rights.
func (s *Spec) like() (string, error) {
	text, err := json.Marshal([]any{s.Template, s.Overlay, s.Image, s.Env, len(s.Files) > 0, s.RegistrySecret, s.NoUserNamespace})
	return string(text), err
}

// rights makes of a template the Job with rights that were admitted.
type rights func(*template) *Admitted

func (c *Cluster) findRights(ctx context.Context, t *template, s *Spec) (rights, error) {
	if t.own {
		if _, err := c.tryPod(ctx, t); err != nil {
			return nil, fmt.Errorf("%s refuses the pod of the template: %w", c, err)
		}
		return func(t *template) *Admitted {
			return &Admitted{template: t, Tells: "the pod has the rights that its template gives it"}
		}, nil
	}
	var last error
	refusals := ""
	for i, l := range levels() {
		if i == 0 && s.NoUserNamespace {
			refusals = "; the node has no user namespaces for pods"
			continue
		}
		made, err := c.tryPod(ctx, l.give(t))
		switch {
		case err == nil && l.holds != nil && !l.holds(made):
			err = fmt.Errorf("the cluster has no user namespaces for pods")
		case err != nil && !isPolicy(err):
			return nil, err
		case err == nil:
			return func(t *template) *Admitted { return &Admitted{l.give(t), l.name + ": " + l.tells + refusals} }, nil
		}
		if last = err; refusals == "" {
			refusals = "; better is refused: " + oneSentence(err.Error())
		}
	}
	return nil, fmt.Errorf("%s admits no pod that could build: %w", c, last)
}

// tryPod asks what pod the server would make, without making it.
func (c *Cluster) tryPod(ctx context.Context, t *template) (*pod, error) {
	metadata := dict{"generateName": "slipway-"}
	for k, v := range Child(t.job, "spec", "template", "metadata") {
		metadata[k] = v
	}
	delete(metadata, "name")
	spec := t.pod
	if m, ok := volumeOfFiles(t); ok { // the Secret is not there yet
		spec = m
	}
	p := &pod{}
	err := c.call(ctx, request{
		method: http.MethodPost, path: c.pods(""), query: url.Values{"dryRun": {"All"}, "fieldValidation": {"Strict"}},
		body: dict{"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec},
	}, p, nil)
	if isRBAC(err) {
		err = fmt.Errorf("%w (docs/kubernetes.md has the role that a user needs)", err)
	}
	return p, err
}

// volumeOfFiles is the spec of a pod with the volume of the command's Secret, which a Job gets with its name.
func volumeOfFiles(t *template) (dict, bool) {
	if !t.hasMount(Dir) {
		return nil, false
	}
	c := t.clone()
	c.volume(dict{"name": filesVolume, "secret": dict{"secretName": "slipway"}})
	return c.pod, true
}

// isPolicy reports whether a pod is refused for what it is, and another one may be admitted.
func isPolicy(err error) bool {
	return (isCode(err, http.StatusForbidden) || isCode(err, http.StatusUnprocessableEntity) || isCode(err, http.StatusBadRequest)) && !isRBAC(err)
}

// isRBAC reports whether who asks may not ask that.
func isRBAC(err error) bool {
	return isCode(err, http.StatusUnauthorized) || isCode(err, http.StatusForbidden) && strings.Contains(err.Error(), " cannot ") && strings.Contains(err.Error(), " resource ")
}

// oneSentence is an error in one line that is no longer than a few.
func oneSentence(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	const most = 300
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}
