package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// View is told of a Job while it is carried out, by one goroutine at a time.
type View struct {
	// Line is a line of what the command prints.
	Line func([]byte)
	// Tell is what goes on around it, in one line.
	Tell func(string)
	// Again says that a pod was lost, and that the command begins anew in another one.
	Again func()
}

// Outcome is what became of a command that ran to its end.
type Outcome struct {
	ExitCode int
	// Message is what it left in its termination log, of at most 4096 bytes.
	Message string
}

// ErrNoUserNamespace is the failure of a pod that wants a user namespace on a node that has none for it.
var ErrNoUserNamespace = errors.New("the node has no user namespaces for pods")

// lookPeriod is the time between the first looks at why nothing runs, and lookMost the longest between later ones; endTime is what deleting a Job may take.
const (
	lookPeriod = 2 * time.Second
	lookMost   = 30 * time.Second
	endTime    = 5 * time.Second
)

// Run carries out a command: it makes the Job, shows what its pods print, and deletes it, whatever has happened. A pod that is lost is replaced by the cluster,
// and one whose node is gone by another Job. Where the Job is shared and is there, it is shown, and left to who has made it.
func (c *Cluster) Run(ctx context.Context, a *Admitted, s *Spec, v View) (Outcome, error) {
	names := a.template.sharedNames(s)
	for gone := 0; ; {
		name := newName()
		if len(names) > 0 {
			name = names[0]
		}
		out, err := c.run(ctx, a, s, v, name)
		var left *notJoined
		switch joined := errors.As(err, &left); {
		case !joined && !errors.Is(err, errDeadNode):
			return out, err
		case joined && left.then == alone:
			names = nil
		case joined && left.then == sameName && gone < maxGone:
			gone++
		case len(names) > 0:
			names = names[1:]
		}
	}
}

// maxGone is how often a Job that was another client's is made anew under its name.
const maxGone = 5

// errDeadNode is the end of a Job whose pod does not end.
var errDeadNode = errors.New("the node of the pod does not answer")

func (c *Cluster) run(ctx context.Context, a *Admitted, s *Spec, v View, name string) (out Outcome, err error) {
	r := &running{cluster: c, view: v, name: name, client: newName(), patience: s.Patience, over: map[string]bool{}, since: time.Now()}
	if r.patience == 0 {
		r.patience = DefaultPatience
	}
	if len(s.Files) > 0 {
		r.secret = newName()
	}
	t := a.template.clone()
	t.named(r.name, r.client, r.secret)
	defer r.delete(ctx)
	if err := r.create(ctx, t, s); err != nil {
		if r.joined {
			v.Tell("Job " + name + " is not joined: " + err.Error())
		}
		return Outcome{}, err
	}
	out, err = r.follow(ctx)
	if left := (*notJoined)(nil); errors.As(err, &left) {
		v.Again() // what was shown of it is nobody's result
		v.Tell("Job " + name + " is left: " + err.Error())
	}
	return out, err
}

// running is a Job that is carried out.
type running struct {
	cluster  *Cluster
	view     View
	name     string
	client   string // who carries it out, as the Job says
	secret   string // the Secret of the Job; "" is none
	uid      string
	patience time.Duration
	joined   bool // another client has made it

	pod    *seen           // that is shown; nil: one is waited for
	next   *seen           // that takes its place
	over   map[string]bool // pods that are
	since  time.Time       // when waiting for a pod began
	looked time.Time       // when it was last looked at why nothing runs
	told   string          // why nothing runs, as it was told last
	read   *reading        // of the pod's log; nil: not yet
	ending time.Time       // when the pod was first seen to be deleted
	whole  string          // the pod that had ended before anybody deleted it
}

// create makes the Job, and then the Secret that it owns, for which its pod waits. Where another client's Job has the name, that is joined.
func (r *running) create(ctx context.Context, t *template, s *Spec) error {
	var made job
	err := r.cluster.call(ctx, request{
		method: http.MethodPost, path: r.cluster.jobs(""), query: url.Values{"fieldValidation": {"Strict"}}, body: t.job,
	}, &made, r.lostServer)
	if isCode(err, http.StatusConflict) {
		var whole dict
		made, whole, err = r.there(ctx)
		switch {
		case isCode(err, http.StatusNotFound):
			return &notJoined{why: "it was deleted", then: sameName}
		case err == nil && made.Metadata.Annotations[clientNote] != r.client: // or else an answer was lost
			return r.join(ctx, t, &made, whole)
		}
	}
	if err != nil {
		return fmt.Errorf("making the Job: %w", err)
	}
	r.uid = made.Metadata.UID
	r.view.Tell("Job " + r.name + " in " + r.cluster.String())
	if r.secret == "" {
		return nil
	}
	err = r.cluster.call(ctx, request{method: http.MethodPost, path: r.cluster.secrets(""), body: dict{
		"apiVersion": "v1", "kind": "Secret", "data": s.Files, "immutable": true,
		"metadata": dict{
			"name": r.secret, "labels": dict{"app.kubernetes.io/managed-by": "slipway", label: r.name},
			"ownerReferences": []any{dict{"apiVersion": "batch/v1", "kind": "Job", "name": r.name, "uid": r.uid}},
		},
	}}, nil, r.lostServer)
	if err != nil && !isCode(err, http.StatusConflict) { // an answer was lost: nobody else has the name
		return fmt.Errorf("making the Secret of the Job: %w", err)
	}
	return nil
}

// delete deletes the Job with all that it owns, also after the context has ended: that of this client, and no other one that has its name by now.
func (r *running) delete(ctx context.Context) {
	if r.joined {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTime)
	defer cancel()
	uid := r.uid
	if uid == "" { // it may have been made nevertheless
		var j job
		err := r.cluster.call(ctx, request{method: http.MethodGet, path: r.cluster.jobs(r.name)}, &j, nil)
		if err != nil || j.Metadata.Annotations[clientNote] != r.client {
			return
		}
		uid = j.Metadata.UID
	}
	err := r.cluster.call(ctx, request{method: http.MethodDelete, path: r.cluster.jobs(r.name), body: dict{
		"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground", "preconditions": dict{"uid": uid},
	}}, nil, nil)
	if err != nil && !isCode(err, http.StatusNotFound) && !isCode(err, http.StatusConflict) {
		r.view.Tell(fmt.Sprintf("Job %s could not be deleted, and goes by itself when it has ended (kubectl delete job %s): %v", r.name, r.name, err))
	}
}

func (r *running) lostServer(err error) {
	r.view.Tell("the API server is not there, trying again: " + err.Error())
}

// follow shows pods until one of them has come to an end that is the command's.
func (r *running) follow(ctx context.Context) (Outcome, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	pods, ended := make(chan seen), make(chan error, 1)
	lost := make(chan error, 1)
	w := &watching{cluster: r.cluster, name: r.name, out: pods, known: map[string]pod{}, lost: func(err error) {
		select {
		case lost <- err:
		default:
		}
	}}
	go func() { ended <- w.watch(ctx) }()
	defer func() { r.stopReading() }()
	tick := time.NewTicker(lookPeriod)
	defer tick.Stop()
	for {
		var err error
		var lines chan []byte
		if r.read != nil {
			lines = r.read.lines
		}
		select {
		case <-ctx.Done():
			return Outcome{}, context.Cause(ctx)
		case err = <-ended:
		case err := <-lost:
			r.lostServer(err)
		case p := <-pods:
			err = r.see(ctx, &p)
		case line, more := <-lines:
			if more {
				r.view.Line(line)
				continue
			}
			r.read.done, r.read.lines = true, nil
		case <-tick.C:
			err = r.look(ctx)
		}
		if err != nil {
			return Outcome{}, err
		}
		if out, over, err := r.conclude(ctx); over || err != nil {
			return out, err
		}
	}
}

// see takes the state of a pod.
func (r *running) see(ctx context.Context, p *seen) error {
	name := p.Metadata.Name
	switch {
	case r.over[name] || !p.isOf(r.uid): // of a Job that had the name before
		return nil
	case r.pod != nil && r.pod.Metadata.Name != name:
		switch {
		case p.gone && r.next != nil && r.next.Metadata.Name == name:
			r.next = nil
		case p.gone:
		case p.before(r.pod) || r.next != nil && r.next.Metadata.Name != name && p.before(r.next):
			r.over[name] = true
		default:
			r.next = p
		}
		return nil
	}
	r.pod = p
	if p.Metadata.DeletionTimestamp != nil && r.ending.IsZero() {
		r.ending = time.Now()
	}
	for _, c := range p.Status.ContainerStatuses {
		if err := r.cannotStart(ctx, &c); err != nil {
			return err
		}
	}
	for _, c := range p.Status.InitContainerStatuses {
		if err := r.cannotStart(ctx, &c); err != nil {
			return err
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == "PodScheduled" && c.Status == "False" && c.Message != "" {
			r.tellOnce("no node has place for the pod: " + oneSentence(c.Message))
		}
	}
	main := p.main()
	if main == nil {
		return nil
	}
	if r.read == nil && (main.State.Running != nil || main.State.Terminated != nil) {
		r.view.Tell("pod " + name + " runs on node " + p.Spec.NodeName)
		r.read = r.cluster.startReading(ctx, name)
	}
	if main.State.Terminated != nil && p.Metadata.DeletionTimestamp == nil {
		r.whole = name
	}
	if r.read != nil && (main.State.Terminated != nil || p.gone) {
		r.read.end()
	}
	return nil
}

// cannotStart is the reason for which a container never will; nil: none.
func (r *running) cannotStart(ctx context.Context, c *container) error {
	w := c.State.Waiting
	if w == nil {
		return nil
	}
	switch w.Reason {
	case "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError", "CreateContainerError", "RunContainerError":
		why := oneSentence(w.Message)
		if w.Reason == "ImagePullBackOff" { // what came before it said why
			if said, ok := strings.CutPrefix(r.told, "ErrImagePull: "); ok {
				why = said
			} else if event := r.cluster.lastWarning(ctx, r.pod.Metadata.UID); event.text != "" {
				why += ": " + event.text
			}
		}
		return r.bad(fmt.Errorf("the pod cannot start: %s: %s", w.Reason, why))
	case "ErrImagePull":
		r.tellOnce(w.Reason + ": " + oneSentence(w.Message))
	}
	return nil
}

func (r *running) tellOnce(text string) {
	if text != r.told {
		r.told = text
		r.view.Tell(text)
	}
}

// conclude finds out whether the command, or the pod that is shown, has come to its end.
func (r *running) conclude(ctx context.Context) (out Outcome, over bool, err error) {
	p := r.pod
	if p == nil || r.read != nil && !r.read.done {
		return out, false, nil
	}
	main := p.main()
	if main == nil || main.State.Terminated == nil {
		switch {
		case p.gone:
			err = r.lose(ctx, "it was deleted")
		case p.Status.Phase == "Failed":
			err = r.lose(ctx, strings.TrimSpace(p.Status.Reason+" "+oneSentence(p.Status.Message)))
		}
		return out, false, err
	}
	t := main.State.Terminated
	switch {
	case t.ExitCode == 0:
		return Outcome{Message: t.Message}, true, nil
	case t.Reason == "OOMKilled":
		return out, false, errors.New("the build was killed for want of memory (OOMKilled): give its pod more by --pod-template")
	case t.Reason == "StartError" || t.Reason == "ContainerCannotRun":
		return out, false, fmt.Errorf("the pod cannot start: %s", oneSentence(t.Message))
	case r.joined && p.Metadata.DeletionTimestamp != nil && r.whole != p.Metadata.Name:
		return out, false, r.lose(ctx, "it was deleted")
	case t.ExitCode == 137 || t.ExitCode == 143 || holds(p.Status.Conditions, "DisruptionTarget") != nil || p.Status.Reason != "":
		why := strings.TrimSpace(p.Status.Reason + " " + oneSentence(p.Status.Message))
		if c := holds(p.Status.Conditions, "DisruptionTarget"); c != nil {
			why = oneSentence(c.Message)
		}
		if why == "" {
			why = fmt.Sprintf("its process was killed, exit code %d", t.ExitCode)
		}
		return out, false, r.lose(ctx, why)
	}
	return Outcome{ExitCode: t.ExitCode, Message: t.Message}, true, r.failed(t.ExitCode)
}

// lose has another pod take the place of the one that is shown, where there will be one.
func (r *running) lose(ctx context.Context, why string) error {
	name := r.pod.Metadata.Name
	r.over[name] = true
	shown := r.read != nil
	r.stopReading()
	next := r.next
	r.pod, r.next, r.read, r.told, r.since, r.ending = nil, nil, nil, "", time.Now(), time.Time{}
	if shown {
		r.view.Again()
		r.view.Tell(fmt.Sprintf("pod %s is lost (%s): starting again from the last finished step", name, why))
	} else {
		r.view.Tell(fmt.Sprintf("pod %s is lost before it started: %s", name, why))
	}
	if next != nil {
		_ = r.see(ctx, next) // what is wrong with it is seen again when it changes
	}
	return r.stillThere(ctx)
}

func (r *running) stopReading() {
	if r.read != nil {
		r.read.stop()
	}
}

// look finds out why nothing runs.
func (r *running) look(ctx context.Context) error {
	if err := r.releaseFromDeadNode(ctx); err != nil {
		return err
	}
	if r.read != nil || !r.mayLook(time.Now()) {
		return nil
	}
	r.looked = time.Now()
	var j job
	err := r.cluster.call(ctx, request{method: http.MethodGet, path: r.cluster.jobs(r.name)}, &j, r.lostServer)
	switch {
	case isCode(err, http.StatusNotFound), err == nil && j.Metadata.UID != r.uid:
		if r.joined {
			return &notJoined{why: "it was deleted", then: sameName}
		}
		return fmt.Errorf("job %s was deleted by somebody else", r.name)
	case err != nil:
		return err
	case r.joined && j.Metadata.DeletionTimestamp != nil:
		return &notJoined{why: "it is being deleted"}
	}
	if c := holds(j.Status.Conditions, "Failed"); c != nil {
		return r.bad(fmt.Errorf("job %s has failed: %s: %s", r.name, c.Reason, oneSentence(c.Message)))
	}
	if r.joined && r.pod == nil && holds(j.Status.Conditions, "Complete") != nil {
		return &notJoined{why: "it has ended, and its pod is gone"}
	}
	uid := r.uid
	if r.pod != nil {
		uid = r.pod.Metadata.UID
	}
	last := r.cluster.lastWarning(ctx, uid)
	text := last.text
	if r.stuck(last) {
		return &notJoined{why: "its pod does not start: " + orNothing(text)}
	}
	if text != "" {
		if strings.HasPrefix(text, "FailedCreatePodSandBox") && isAboutUserNamespaces(text) {
			return fmt.Errorf("%w: %s", ErrNoUserNamespace, text)
		}
		r.tellOnce(text)
	}
	if time.Since(r.since) > r.patience {
		return fmt.Errorf("no pod has started in %s: %s", r.patience, orNothing(r.told))
	}
	return nil
}

// mayLook reports whether it is time to look, or the last time: the longer nothing has run, the less often, as of many Jobs that wait for a place there would
// be many requests, about events of all of them.
func (r *running) mayLook(now time.Time) bool {
	waited := now.Sub(r.since)
	return waited > r.patience || now.Sub(r.looked) >= min(waited/3, lookMost)
}

func orNothing(s string) string {
	if s == "" {
		return "the cluster does not say why"
	}
	return s
}

func isAboutUserNamespaces(text string) bool {
	text = strings.ToLower(text)
	for _, word := range []string{"user namespace", "userns", "idmap", "usernamespace"} {
		if strings.Contains(text, word) {
			return true
		}
	}
	return false
}

// deadNodeTime is how long a pod may be there when it should have ended.
var deadNodeTime = 20 * time.Second

// releaseFromDeadNode gives a pod up whose node does not end it. A Job with a podFailurePolicy makes no other one until the pod has failed, which it never does then,
// and keeps it by a finalizer that goes with the Job: the Job ends with errDeadNode.
func (r *running) releaseFromDeadNode(ctx context.Context) error {
	p := r.pod
	if p == nil || r.ending.IsZero() {
		return nil
	}
	grace := time.Duration(p.Metadata.DeletionGracePeriodSeconds)*time.Second + deadNodeTime
	if time.Since(r.ending) < grace {
		return nil
	}
	if r.joined {
		return r.bad(errDeadNode)
	}
	r.ending = time.Now() // it is tried once in that time
	err := r.cluster.call(ctx, request{method: http.MethodDelete, path: r.cluster.pods(p.Metadata.Name), query: url.Values{"gracePeriodSeconds": {"0"}}}, nil, r.lostServer)
	if err != nil && !isCode(err, http.StatusNotFound) || r.next != nil {
		return err
	}
	return errors.Join(r.lose(ctx, errDeadNode.Error()), errDeadNode)
}
