package cli_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/slipway-build/slipway/internal/kube/kubetest"
)

// cluster is the command `cluster`, an API server of Kubernetes whose pods are processes of slipway with stores of their own. $KUBECONFIG leads to it.
//
//	cluster start [privileged|baseline|restricted] [no-user-namespaces] [no-image] [no-node] [together]
//	                         together: no container starts before there are two pods
//	cluster most N           so many Jobs there were at the same time, at most
//	cluster kill             the pod that runs is killed, and another one takes its place
//	cluster made N           so many Jobs were made
//	cluster forge            the images of the Jobs that there are become other ones
//	cluster cut              all connections break
//	cluster refuse WHAT MSG  requests (as "POST pods") are refused; without a message no longer
//	cluster asked RE         it was asked for "METHOD path"
//	cluster waits N RE       until it was asked so often
//	cluster job PATH RE      a value of the last Job, keys with points between (kubetest.At)
//	cluster empty            nothing is left: no Job, no pod, no Secret
func cluster(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: cluster start|kill|cut|refuse|asked|job|empty ...")
	}
	if args[0] == "start" {
		startCluster(ts, args[1:])
		return
	}
	v, ok := clusters.Load(ts.Getenv("KUBECONFIG"))
	if !ok {
		ts.Fatalf("there is no cluster")
	}
	c := v.(*scriptCluster)
	switch args[0] {
	case "kill":
		c.kill(ts)
	case "made":
		if got := strconv.Itoa(c.Made()); got != args[1] {
			ts.Fatalf("%s Jobs were made", got)
		}
	case "forge":
		c.Edit(func(job map[string]any) {
			kubetest.At(job, "spec.template.spec.containers.0").(map[string]any)["image"] = "forged"
		})
	case "cut":
		c.Cut(false)
	case "refuse":
		c.Refuse(args[1], strings.Join(args[2:], " "))
	case "asked":
		if slices.ContainsFunc(c.Asked(), regexp.MustCompile(args[1]).MatchString) == neg {
			ts.Fatalf("requests: want %v, there were %q", !neg, c.Asked())
		}
	case "waits":
		c.waitAsked(ts, args[1], regexp.MustCompile(args[2]))
	case "job":
		c.mu.Lock()
		defer c.mu.Unlock()
		if got := fmt.Sprint(kubetest.At(c.last, args[1])); regexp.MustCompile(args[2]).MatchString(got) == neg {
			ts.Fatalf("%s of the Job is %s", args[1], got)
		}
	case "most":
		c.mu.Lock()
		defer c.mu.Unlock()
		if got := strconv.Itoa(c.most); got != args[1] {
			ts.Fatalf("there were %s Jobs at the same time", got)
		}
	case "empty":
		for range 3000 { // what a client deleted as its last deed
			if len(c.Left()) == 0 {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		ts.Fatalf("there are %q", c.Left())
	}
}

// clusters are those of all scripts by their kubeconfigs.
var clusters sync.Map

type scriptCluster struct {
	*kubetest.Server

	mu   sync.Mutex
	last map[string]any // Job
	most int            // Jobs at the same time
}

func startCluster(ts *testscript.TestScript, options []string) {
	program := "" // this test, by the name that it has in scripts
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if _, err := os.Stat(filepath.Join(dir, "slipway")); err == nil {
			program = filepath.Join(dir, "slipway")
			break
		}
	}
	c := &scriptCluster{}
	opt := kubetest.Options{Program: program, Dir: filepath.Join(filepath.Dir(ts.Getenv("SLIPWAY_ROOT")), "pods"), NoUserNamespaces: slices.Contains(options, "no-user-namespaces")}
	for _, name := range []string{"PATH", "HOME", "SLIPWAY_CERTS_DIR", "SLIPWAY_VERIFY", "GORACE"} {
		opt.Env = append(opt.Env, name+"="+ts.Getenv(name))
	}
	for _, o := range options {
		if o == "privileged" || o == "baseline" || o == "restricted" {
			opt.Level = o
		}
	}
	var pods atomic.Int32
	two := make(chan struct{})
	opt.Pod = func(s *kubetest.Server, p *kubetest.Pod) bool {
		c.mu.Lock()
		jobs := s.Jobs()
		c.last, c.most = jobs[0], max(c.most, len(jobs))
		c.mu.Unlock()
		if pods.Add(1) == 2 {
			close(two)
		}
		switch {
		case slices.Contains(options, "together"):
			<-two
		case slices.Contains(options, "no-image"):
			why := map[string]any{"reason": "ErrImagePull", "message": "pull of example.com/slipway: not found"}
			p.Set(kubetest.State("Pending", "waiting", why))
			p.Set(kubetest.State("Pending", "waiting", map[string]any{"reason": "ImagePullBackOff", "message": "Back-off pulling image"}))
			return false
		case slices.Contains(options, "no-node"):
			p.Set(map[string]any{"phase": "Pending", "conditions": []any{map[string]any{
				"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient memory.",
			}}})
			return false
		}
		return true
	}
	c.Server = kubetest.New(opt)
	ts.Defer(func() {
		c.CloseClientConnections()
		for _, p := range c.Running() {
			p.Kill(unix.SIGKILL)
		}
		c.Close()
	})
	conf := filepath.Join(filepath.Dir(ts.Getenv("SLIPWAY_ROOT")), "kubeconfig")
	ts.Check(c.Kubeconfig(conf))
	ts.Setenv("KUBECONFIG", conf)
	clusters.Store(conf, c)
}

// waitAsked waits until there were so many requests of a kind.
func (c *scriptCluster) waitAsked(ts *testscript.TestScript, want string, re *regexp.Regexp) {
	for range 3000 {
		n := 0
		for _, asked := range c.Asked() {
			if re.MatchString(asked) {
				n++
			}
		}
		if strconv.Itoa(n) == want {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	ts.Fatalf("requests: there were %q", c.Asked())
}

// kill kills the pod that runs, when there is one.
func (c *scriptCluster) kill(ts *testscript.TestScript) {
	for range 3000 {
		if all := c.Running(); len(all) > 0 {
			all[0].Kill(unix.SIGKILL)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	ts.Fatalf("no pod runs")
}
