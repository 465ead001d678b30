package cli

import (
	"testing"

	"github.com/spf13/pflag"
)

// TestOnRules: of each flag of build it is said what becomes of it in a cluster.
func TestOnRules(t *testing.T) {
	rules := onRules()
	newBuildCmd(&app{}).Flags().VisitAll(func(f *pflag.Flag) {
		if _, ok := rules[f.Name]; !ok {
			t.Errorf("nothing is said of --%s", f.Name)
		}
		delete(rules, f.Name)
	})
	for name := range rules {
		t.Errorf("there is no --%s", name)
	}
}
