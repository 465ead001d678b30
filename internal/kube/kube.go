// Package kube carries out a command as a Job of Kubernetes, and shows what its pod prints as if the command ran here.
//
// # Structure
//
//	kube.go        which cluster
//	kubeconfig.go  the files that kubectl reads, and the service account of a pod; transport.go speaks for their users
//	api.go         requests to the API server, and what of its answers is read
//	template.go    the Job, made of a template
//	level.go       which rights its pod gets: asked of the API server
//	run.go         a Job from its creation to its end, or from where another client has it (join.go); pods.go watches its pods, reading.go and log.go read what they print
//
// client-go is not used: its typed clients added 21 MB to a program and 15,000 allocations to each start of it, and clientcmd with rest alone 4 MB and
// 3,700, more than all of slipway takes.
//
// # Invariants
//
// All state is in the cluster: the Job, and a Secret that it owns. Who deletes the Job deletes everything.
package kube

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
)

// Scheme begins the place of a build in a cluster: kubernetes, or kubernetes://CONTEXT/NAMESPACE.
const Scheme = "kubernetes"

// Cluster is a namespace of a cluster.
type Cluster struct {
	Context   string // of the kubeconfig; "" is that of a service account
	Namespace string

	client   *http.Client
	base     *url.URL
	reached  atomic.Bool // it has answered once
	admitted sync.Map    // what was allowed once, as request.right calls it
	rights   sync.Map    // the rights of pods, by what they are like
}

// Open finds the cluster that a place names: with the user's kubeconfig ($KUBECONFIG, ~/.kube/config), or where there is none with the service account of the
// pod that this process runs in. Nothing is asked.
func Open(place string) (*Cluster, error) {
	after, ok := strings.CutPrefix(place, Scheme)
	name, ok2 := strings.CutPrefix(after, "://")
	if !ok || after != "" && !ok2 {
		return nil, fmt.Errorf("%q is no place for a build: want kubernetes or kubernetes://CONTEXT/NAMESPACE", place)
	}
	conf, err := readKubeconfig()
	if err != nil {
		return nil, err
	}
	known := func(context string) bool { _, ok := conf.contexts[context]; return ok }
	name, namespace := splitPlace(name, known)
	var a *access
	if len(conf.contexts) == 0 && name == "" {
		if a, err = podAccess(serviceAccount); a == nil && err == nil {
			err = errors.New("there is no cluster: no kubeconfig ($KUBECONFIG, ~/.kube/config), and this is no pod with a service account")
		}
	} else {
		a, err = conf.access(name)
	}
	if err != nil {
		return nil, err
	}
	for _, n := range []string{namespace, a.namespace, "default"} {
		if a.namespace = n; n != "" {
			break
		}
	}
	return open(a)
}

func open(a *access) (*Cluster, error) {
	c := &Cluster{Context: a.context, Namespace: a.namespace}
	server := a.cluster.Server
	if !strings.Contains(server, "://") {
		server = "https://" + server
	}
	var err error
	if c.base, err = url.Parse(server); err != nil || c.base.Host == "" || c.base.Scheme != "https" && c.base.Scheme != "http" {
		return nil, fmt.Errorf("the kubeconfig's server %q is no address", a.cluster.Server)
	}
	t, err := a.transport()
	if err != nil {
		return nil, err
	}
	c.client = &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return c, nil
}

// splitPlace splits CONTEXT/NAMESPACE. Names of contexts may have slashes, as those of EKS do.
func splitPlace(name string, known func(string) bool) (context, namespace string) {
	if name == "" || known(name) {
		return name, ""
	}
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return name, ""
}

// String is what messages call it.
func (c *Cluster) String() string {
	if c.Context == "" {
		return "namespace " + c.Namespace
	}
	return "namespace " + c.Namespace + " of " + c.Context
}
