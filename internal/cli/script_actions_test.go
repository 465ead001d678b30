package cli_test

import (
	"slices"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/slipway-build/slipway/internal/cache/actions/actionstest"
)

// actionsCache is the command `actions`, a stand-in for the cache service of GitHub Actions that belongs to
// one script.
//
//	actions start [v1|v2]      and have the environment of a job on refs/heads/main
//	actions job [v1|v2] SCOPE...   the environment of a job with these scopes ("read:SCOPE" to read it)
//	actions evict PREFIX       entries whose keys begin so are gone
//	actions damage PREFIX      entries whose keys begin so have other bytes
//	actions break N            the next N downloads end in the middle
//	actions stop
//	actions asked RE           it was asked for "METHOD /path", or "blob METHOD /path", since the last time; `!`: it was not
//	actions quiet DIR          no token and no signed address is in a file of DIR, or in the last output
func actionsCache(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 2 && args[0] == "start" {
		s := actionstest.New()
		ts.Defer(s.Close)
		ts.Setenv("ACTIONS", s.URL)
		scriptActions.Store(s.URL, s)
		args = []string{"job", args[1], "refs/heads/main"}
	}
	v, ok := scriptActions.Load(ts.Getenv("ACTIONS"))
	if !ok || len(args) == 0 {
		ts.Fatalf("usage: actions start|job|evict|damage|break|stop|asked|quiet")
	}
	s := v.(*actionstest.Server)
	switch {
	case args[0] == "job" && len(args) > 2:
		for _, name := range []string{"ACTIONS_CACHE_URL", "ACTIONS_RESULTS_URL", "ACTIONS_CACHE_SERVICE_V2"} {
			ts.Setenv(name, "")
		}
		ts.Setenv("ACTIONS_RUNTIME_TOKEN", actionstest.Token(args[2:]...))
		if args[1] == "v2" {
			ts.Setenv("ACTIONS_RESULTS_URL", s.URL)
			ts.Setenv("ACTIONS_CACHE_SERVICE_V2", "True")
		} else {
			ts.Setenv("ACTIONS_CACHE_URL", s.URL)
		}
	case args[0] == "evict" && len(args) == 2:
		s.Evict(args[1])
	case args[0] == "damage" && len(args) == 2:
		for _, key := range s.Keys("refs/heads/main") {
			if strings.HasPrefix(key, args[1]) {
				data := slices.Clone(s.Get("refs/heads/main", key))
				data[len(data)/2] ^= 1
				s.Put("refs/heads/main", key, data, true)
			}
		}
	case args[0] == "break" && len(args) == 2:
		s.Break = len(args[1])
	case args[0] == "stop":
		s.Close()
	case args[0] == "asked" && len(args) == 2:
		wasAsked(ts, neg, s.Asked(), args[1])
	case args[0] == "quiet" && len(args) == 2:
		isQuiet(ts, args[1], ts.Getenv("ACTIONS_RUNTIME_TOKEN"), actionstest.Signature)
		if p := s.Problems(); len(p) > 0 {
			ts.Fatalf("%q", p)
		}
	default:
		ts.Fatalf("actions %q: unknown", args)
	}
}

// scriptActions are the services of all scripts by their URL.
var scriptActions sync.Map
